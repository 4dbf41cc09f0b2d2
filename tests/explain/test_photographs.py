"""Real photographs and weights: a map that names what matters beats one that was drawn blindly."""

import csv

import jax
import numpy as np
import pytest

from jaxtl import data, models, pretrained
from jaxtl.data.normalize import normalize
from jaxtl.explain.faithfulness import area, by_cells, center_map, deletion_curve, insertion_curve
from jaxtl.explain.integrated_gradients import attributions
from jaxtl.explain.methods import explain_images

COUNT, BATCH, CELL = 50, 10, 16


@pytest.fixture(scope="module")
def deit(request):
    """DeiT-Tiny with its 1000 classes, 50 photographs, and the classes that it predicts."""
    shared = request.getfixturevalue("shared")
    opened = pretrained.open_weights(
        str(shared / "weights" / "deit_tiny_imagenet1k" / "deit_tiny_patch16_224.safetensors")
    )
    model = models.build("vit_ti16", num_classes=1000, epsilon=opened.epsilon)
    variables, _ = pretrained.load_pretrained(opened, model, image_size=224, rng=jax.random.key(0))
    folder = shared / "datasets" / "imagenet_sample_1000"
    with open(folder / "labels.csv") as file:
        names = [row["image"] for row in csv.DictReader(file)][:: 1000 // COUNT]
    views = [data.eval_view(data.decode((folder / name).read_bytes(), name), opened.pixels) for name in names]
    images = np.asarray(normalize(np.stack(views), opened.pixels))
    logits = in_batches(jax.jit(lambda x: model.apply(variables, x)), images)
    return model, variables, images, logits.argmax(axis=1)


def in_batches(function, *arrays):
    return np.concatenate([function(*(x[i : i + BATCH] for x in arrays)) for i in range(0, COUNT, BATCH)])


@pytest.fixture(scope="module")
def areas(deit):
    """Gives the mean areas under the curves of deletion and insertion for a map of each photograph."""
    model, variables, images, classes = deit

    def measure(maps):
        curves = (
            in_batches(
                lambda *x, curve=curve: curve(model, variables, *x, steps=8), images, classes, by_cells(maps, CELL)
            )
            for curve in (deletion_curve, insertion_curve)
        )
        return tuple(float(area(curve).mean()) for curve in curves)

    return measure


@pytest.fixture(scope="module")
def blind(areas):
    """Gives the areas of a random map and of one that is strongest in the centre."""
    random = np.random.default_rng(0).random((COUNT, 224 // CELL, 224 // CELL), np.float32)
    center = np.broadcast_to(center_map(224, 224), (COUNT, 224, 224))
    return areas(random.repeat(CELL, axis=1).repeat(CELL, axis=2)), areas(center)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient_attention", "grad_cam"])
def test_maps_of_deit_beat_a_random_one_and_the_centre(deit, areas, blind, method):
    model, variables, images, classes = deit
    maps = in_batches(lambda x, y: explain_images(model, variables, x, y, method), images, classes)
    deletion, insertion = areas(maps)
    for other_deletion, other_insertion in blind:
        assert deletion < other_deletion
        assert insertion > other_insertion


@pytest.mark.slow
def test_attributions_of_deit_add_up_within_a_fifth(deit):
    model, variables, images, classes = deit
    images, classes = images[:4], classes[:4]
    found = np.asarray(attributions(model, variables, images, classes)).sum(axis=(1, 2, 3))
    logits, grey = (np.asarray(jax.jit(model.apply)(variables, x))[np.arange(4), classes] for x in (images, 0 * images))
    # Near the even grey image a ViT's LayerNorms make the gradient change fast: 32 steps are off by up to 18 %.
    np.testing.assert_allclose(found, logits - grey, rtol=0.2)


@pytest.mark.slow
def test_grad_cam_of_a_cifar_resnet_beats_a_random_one_and_the_centre(shared):
    opened = pretrained.open_weights(str(shared / "weights" / "cifar10_resnet" / "resnet20-12fca82f.th"))
    model = models.build("resnet20_cifar", num_classes=10)
    variables, _ = pretrained.load_pretrained(opened, model, image_size=32, rng=jax.random.key(0))
    with np.load(shared / "datasets" / "cifar10_subset" / "cifar10_subset.npz") as arrays:
        images = np.asarray(normalize(arrays["x_test"][:: len(arrays["x_test"]) // COUNT][:COUNT], opened.pixels))
    classes = np.asarray(jax.jit(model.apply)(variables, images)).argmax(axis=1)
    random = np.random.default_rng(0).random((COUNT, 8, 8), np.float32).repeat(4, axis=1).repeat(4, axis=2)
    kinds = {
        "grad_cam": explain_images(model, variables, images, classes),
        "random": random,
        "center": np.broadcast_to(center_map(32, 32), (COUNT, 32, 32)),
    }
    deletion, insertion = (
        {kind: area(curve(model, variables, images, classes, by_cells(maps, 4))).mean() for kind, maps in kinds.items()}
        for curve in (deletion_curve, insertion_curve)
    )
    assert deletion["grad_cam"] < min(deletion["random"], deletion["center"])
    assert insertion["grad_cam"] > max(insertion["random"], insertion["center"])
