"""The real files, end to end: the arrays of others give the logits that others measured."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxtl import models, pretrained
from jaxtl.preprocessing import Pixels


def _square(path: Path, pixels: Pixels) -> np.ndarray:
    """Shorter side to `resize`, centre crop, normalised: with Pillow alone, apart from the data pipeline."""
    image = Image.open(path).convert("RGB")
    width, height = (pixels.resize * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - pixels.size) // 2, (height - pixels.size) // 2
    image = image.crop((left, top, left + pixels.size, top + pixels.size))
    return (np.asarray(image, np.float32) / 255 - np.float32(pixels.mean)) / np.float32(pixels.std)


def test_deit_tiny_gives_the_logits_that_torch_gave(shared):
    folder = shared / "weights" / "deit_tiny_imagenet1k"
    opened = pretrained.open_weights(str(folder / "deit_tiny_patch16_224.safetensors"))
    assert (opened.key_mapping.name, opened.num_classes, opened.epsilon) == ("timm", 1000, 1e-6)
    model = models.build("vit_ti16", num_classes=1000, epsilon=opened.epsilon)
    variables, load_report = pretrained.load_pretrained(opened, model, image_size=224, rng=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 5_717_416
    assert load_report.dropped == load_report.initialised == {}

    reference = np.load(folder / "reference_logits.npz")
    photographs = shared / "datasets" / "imagenet_sample_1000"
    images = np.stack([_square(photographs / name, opened.pixels) for name in reference["files"]])
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, reference["logits"], atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "file", "accuracy"), [(20, "resnet20-12fca82f.th", 0.916), (32, "resnet32-d509ac18.th", 0.928)]
)
def test_cifar_resnets_reach_their_accuracy(shared, depth, file, accuracy):
    opened = pretrained.open_weights(str(shared / "weights" / "cifar10_resnet" / file))
    model = models.build(f"resnet{depth}_cifar", num_classes=10)
    variables, _ = pretrained.load_pretrained(opened, model, image_size=32, rng=jax.random.key(0))
    data = np.load(shared / "datasets" / "cifar10_subset" / "cifar10_subset.npz")
    images = (data["x_test"] / np.float32(255) - np.float32(opened.pixels.mean)) / np.float32(opened.pixels.std)
    predicted = jnp.argmax(jax.jit(model.apply)(variables, images), axis=-1)
    assert abs(np.mean(np.asarray(predicted) == data["y_test"]) - accuracy) <= 0.003
