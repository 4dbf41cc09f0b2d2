"""Calibration folded into the last layer: its logits are the calibrated ones, in every family."""

import jax
import numpy as np
import pytest

from jaxtl import models
from jaxtl.deploy.calibrated_head import fold_into_head
from jaxtl.errors import UserError
from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.scaling import Scaling
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import flatten, nest

TEMPERATURE = Scaling(1.7)
VECTOR = Scaling(1.0, (0.5, 1.0, 2.0), (-0.25, 0.5, -0.25))
VIT = "vit_s16:patch=8,width=32,depth=2,heads=2,image_size=32"
TWO_HEADS = "deit_s16_distilled:patch=8,width=32,depth=2,heads=2,image_size=32"
# Small ones where a family has sizes.
NAMES = (
    "bit_r50x1:stages=1-1-1-1,width=32",
    "clip_b16:patch=8,width=32,depth=2,heads=2,image_size=32",
    "convnext_t:blocks=1-2-1-1,width=8",
    "densenet121:layers=1-2-1-1,width=8,growth=4",
    "efficientnet_b0:depths=1-2-1-1-1-1-1",
    "maxvit_t:blocks=1-1,width=32,stem_width=8,image_size=32",
    "mobilenet_v3_small",
    "resnet50d:stages=1-1-1-1,width=8",
    "resnet50v2:stages=1-1-1-1,width=8",
    "swin_t:blocks=2-1,heads=1-2,width=8,window=4,image_size=32",
    "vgg11_bn:width=8,hidden=8",
)


def draw(name, classes=3, size=32):
    model = models.build(name, num_classes=classes, image_size=size)
    generator = np.random.default_rng(0)
    leaves = abstract_variables(model, size)
    drawn = {path: generator.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    drawn = {path: np.abs(leaf) + 0.5 if path.endswith("/var") else leaf for path, leaf in drawn.items()}
    return model, nest(drawn), generator.normal(size=(4, size, size, 3)).astype(np.float32)


def compare(name, scaling, classes=3):
    model, variables, images = draw(name, classes)
    apply = jax.jit(lambda variables: model.apply(variables, images))
    before, after = (np.asarray(apply(each)) for each in (variables, fold_into_head(variables, model, scaling)))
    assert np.ptp(before) > 0.1
    return before, after


@pytest.mark.parametrize(
    "name",
    [
        VIT,
        pytest.param(
            "deit_s16_distilled:patch=8,width=32,depth=2,heads=2,image_size=32", id="two heads", marks=pytest.mark.slow
        ),
        pytest.param(f"{VIT},head_hidden=8,head_pool=avg", id="hidden layers", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES),
    ],
)
def test_the_logits_are_the_calibrated_ones(name):
    for scaling in (TEMPERATURE, VECTOR):
        before, after = compare(name, scaling)
        expected = scaling.apply(before)
        np.testing.assert_allclose(after, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scaling", [TEMPERATURE, Scaling(1.0, (0.5, 2.0), (-0.25, 0.25))])
def test_one_logit_gives_the_calibrated_probabilities(scaling):
    before, after = compare(f"{VIT},single_logit=true", scaling, classes=2)
    assert not after[:, 0].any()
    np.testing.assert_allclose(
        to_probabilities(after, sigmoid=False), to_probabilities(scaling.apply(before), sigmoid=False), atol=1e-6
    )


def test_nothing_else_changes_and_what_was_given_stays():
    model, variables, _ = draw(VIT)
    kept = {path: leaf.copy() for path, leaf in flatten(variables).items()}
    folded = flatten(fold_into_head(variables, model, VECTOR))
    changed = {path for path, leaf in folded.items() if not np.array_equal(leaf, kept[path])}
    assert changed == {"params/head/kernel", "params/head/bias"}
    assert {leaf.dtype for leaf in folded.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(leaf, kept[path]) for path, leaf in flatten(variables).items())


@pytest.mark.slow
def test_a_layer_without_bias_takes_a_temperature_alone():
    name = "maxvit_t:blocks=1-1,width=32,stem_width=8,image_size=32,torchvision=true"
    before, after = compare(name, TEMPERATURE)
    np.testing.assert_allclose(after, before / 1.7, rtol=1e-5)
    with pytest.raises(UserError, match="has no bias: it takes a temperature, but no vector scaling"):
        compare(name, VECTOR)


@pytest.mark.slow
@pytest.mark.parametrize("family", models.families(), ids=lambda family: family.__name__.rpartition(".")[2])
def test_every_family_names_its_last_layers(family):
    model = models.build(next(iter(family.VARIANTS)), num_classes=3)
    leaves = abstract_variables(model, model.image_size)
    assert model.classifier_paths()
    for path in model.classifier_paths():
        assert leaves[path].shape[-1] == 3
    # No other layer of the last group, of those that evaluation runs, is as wide as the classes.
    pattern = dict(model.groups())["head"].split("|")
    wide = {p for p, leaf in leaves.items() if p.split("/")[1] in pattern and leaf.shape[-1:] == (3,) and leaf.ndim > 1}
    assert wide == set(model.classifier_paths())
