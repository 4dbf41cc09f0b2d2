"""Loading into a model with another head: what is left out is said, a head is kept where it is of the same form."""

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jaxtl import models, pretrained
from jaxtl.deploy.export.timm import save_timm
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained.native import save_native
from jaxtl.trees import flatten, nest

VGG = "vgg11:width=8,hidden=16"
ASKED = {"head_pool": "flatten", "head_hidden": (6,), "single_logit": True}
PIXELS = Pixels(64, 64, (0.5,) * 3, (0.5,) * 3, "bilinear")


def torch_vgg(classes=5):
    """A narrow VGG-11 in the names of torchvision."""
    torch.manual_seed(0)
    layers, before = [], 3
    for width in (8, 0, 16, 0, 32, 32, 0, 64, 64, 0, 64, 64, 0):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        before = width or before
    dense = nn.Linear(64 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout()
    return nn.ModuleDict(
        {"features": nn.Sequential(*layers), "classifier": nn.Sequential(*dense, nn.Linear(16, classes))}
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(torch_vgg().state_dict(), path)
    return path


def load(place, name, *, num_classes=2, size=64, **options):
    opened = pretrained.open_weights(str(place))
    model = models.build(name, num_classes=num_classes, image_size=size)
    found = pretrained.load_pretrained(opened, model, image_size=size, rng=jax.random.key(0), **options)
    return model, *found


@pytest.mark.parametrize(
    ("num_classes", "reason"),
    [(2, "the weights have 5 classes, 2 are wanted"), (5, "the weights have a head of another form")],
)
def test_dense_layers_that_a_pooling_replaces_are_dropped_and_listed(source, num_classes, reason):
    name = models.with_fields(VGG, head_pool="flatten", head_hidden=(6,))
    _, variables, report = load(source, name, num_classes=num_classes)
    assert report.head == f"new: {reason}"
    assert report.notes == ["fc1, fc2: left out of the model, as asked"]
    assert set(report.dropped) == {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}
    head = {"params/head/kernel", "params/head/bias", "params/head/hidden1/kernel", "params/head/hidden1/bias"}
    assert set(report.initialised) == head
    assert report.initialised["params/head/hidden1/kernel"] == [2 * 2 * 64, 6]
    theirs = torch_vgg()["features"][3].weight.detach().numpy()
    np.testing.assert_array_equal(variables["params"]["block2"]["conv1"]["kernel"], theirs.transpose(2, 3, 1, 0))


@pytest.mark.slow
def test_hidden_layers_alone_keep_the_dense_layers_of_the_family(source):
    _, variables, report = load(source, models.with_fields(VGG, head_hidden=(6,)))
    assert "params/fc1/kernel" in report.loaded
    assert report.notes == []
    assert variables["params"]["head"]["hidden1"]["kernel"].shape == (16, 6)


def draw(model):
    leaves, generator = pretrained.load.abstract_variables(model, 64), np.random.default_rng(0)
    return nest({path: generator.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves.items()})


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A file in native names of a VGG with a head of its own; gives its path and variables."""
    name = models.with_fields(VGG, **ASKED)
    variables = draw(models.build(name, num_classes=2, image_size=64))
    path = tmp_path_factory.mktemp("native") / "vgg.safetensors"
    save_native(path, variables, model=name, pixels=PIXELS, classes=("cat", "dog"))
    return path, variables


def test_a_saved_head_comes_back(native):
    path, variables = native
    opened = pretrained.open_weights(str(path))
    assert opened.num_classes == 2
    assert opened.model == f"{VGG},head_pool=flatten,head_hidden=6,single_logit=true"
    for name in ("auto", VGG):  # The weights say which head they have, unless the name does.
        full = pretrained.resolve_model(opened, name)
        _, found, report = load(path, full, classes=("cat", "dog"))
        assert report.head == "kept: 2 classes"
        assert (report.dropped, report.contradicted, report.notes) == ({}, {}, [])
        for key, leaf in flatten(found).items():
            np.testing.assert_array_equal(leaf, flatten(variables)[key], err_msg=key)


@pytest.mark.slow
def test_a_flattening_head_is_kept_at_its_image_size_alone(native):
    path, _ = native
    name = models.with_fields(VGG, **ASKED)
    with pytest.raises(
        UserError, match="reads flattened maps of images of 64 pixels, and the model sees 96: give image_"
    ):
        load(path, name, size=96)
    _, variables, report = load(path, name, size=96, head="new")
    assert report.head == "new: as asked"
    assert variables["params"]["head"]["hidden1"]["kernel"].shape == (3 * 3 * 64, 6)
    # Other poolings do not mind.
    pooled = models.with_fields(VGG, head_pool="avg", single_logit=True)
    _, _, report = load(path, pooled, size=96)
    assert report.head == "new: the weights have a head of another form"
    with pytest.raises(UserError, match="its head cannot be kept, the weights have a head of another form"):
        load(path, pooled, head="keep")


def test_formats_for_other_programs_refuse_it_and_name_those_that_do_not(native, tmp_path):
    _, variables = native
    with pytest.raises(UserError, match=r"no names for the head of .*\. It can be exported to jaxtl; "):
        save_timm(tmp_path / "out", variables, model=models.with_fields(VGG, **ASKED), pixels=PIXELS)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_auxiliary_classifiers_are_new_with_the_head():
    """By shapes alone, on arrays named as torchvision names them."""
    model = models.build("googlenet", num_classes=3, image_size=32)
    leaves = pretrained.load.abstract_variables(models.build("googlenet", num_classes=1000, image_size=32), 32)
    arrays = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in leaves.items()}
    facts = {"model": "googlenet", "num_classes": 1000, "epsilon": None, "classes": None, "pixels": None}
    opened = pretrained.open.from_native("here", arrays, facts, ())
    report = pretrained.examine(opened, model, image_size=32)
    layers = ("params/head", "params/aux1/fc2", "params/aux2/fc2")
    assert set(report.initialised) == {f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")}
    assert report.initialised["params/aux2/fc2/kernel"] == [1024, 3]
    assert set(report.dropped) == set(report.initialised)
    report = pretrained.examine(opened, model.clone(aux=False), image_size=32)
    assert report.notes == ["aux1, aux2: left out of the model, as asked"]
    assert {path.split("/")[1] for path in report.dropped} == {"head", "aux1", "aux2"}
