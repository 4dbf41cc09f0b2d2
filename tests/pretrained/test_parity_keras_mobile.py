"""Keras' MobileNets and EfficientNets, saved by Keras, compute the same here from the same pixels."""

import jax
import keras
import numpy as np
import pytest
from keras_networks import CLASSES, check, make, save

from jaxtl import models, pretrained
from jaxtl.errors import UserError
from jaxtl.pretrained import rename
from jaxtl.pretrained.load import abstract_variables

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def _check(
    name,
    folder,
    *,
    endings=(".keras", ".weights.h5"),
    sizes=(64, 90),
    after,
    part,
    preprocess=lambda batch: batch,
    **arguments,
):
    check(
        make(name, sizes[0], **arguments),
        folder,
        endings=endings,
        sizes=sizes,
        after=after,
        part=part,
        preprocess=preprocess,
        make_again=lambda size: make(name, size, **arguments),
    )


def test_mobilenet_v1(tmp_path):
    three = (".keras", ".weights.h5", ".h5")
    scale = keras.applications.mobilenet.preprocess_input
    _check("MobileNet", tmp_path, endings=three, after="stage3.1", part="conv_pw_5_relu", preprocess=scale, alpha=0.25)


def test_mobilenet_v2(tmp_path):
    scale = keras.applications.mobilenet_v2.preprocess_input
    endings = (".weights.h5", ".h5")
    _check("MobileNetV2", tmp_path, endings=endings, after="stage3.0", part="block_3_project_BN", preprocess=scale)


@pytest.mark.parametrize("name", ["MobileNetV3Large", "MobileNetV3Small"])
def test_mobilenet_v3(name, tmp_path):
    part = "expanded_conv_3_project_bn"
    _check(name, tmp_path, after="stage3.0", part=part, dropout_rate=0)


def test_a_minimalistic_mobilenet_v3_is_refused(tmp_path):
    make("MobileNetV3Small", 64, minimalistic=True).save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(UserError, match="a minimalistic MobileNet V3"):
        pretrained.open_weights(str(tmp_path / "x.weights.h5"))


@pytest.mark.parametrize(("name", "endings"), [("B0", (".keras", ".weights.h5")), ("B2", (".h5", ".weights.h5"))])
def test_efficientnet(name, endings, tmp_path):
    _check(f"EfficientNet{name}", tmp_path, endings=endings, after="stage3.0", part="block3a_project_bn")


def test_efficientnet_v2(tmp_path):
    # Stage 2 and 3 begin with a fused block at stride 2, stage 4 with a plain one; at 97 their sides are odd.
    _check("EfficientNetV2S", tmp_path, sizes=(64, 97), after="stage4.0", part="block4a_project_bn")
    opened = pretrained.open_weights(str(tmp_path / "network.weights.h5"))
    assert opened.model == "efficientnet_v2_s:tf_padding=true,unbiased=false"
    # x / 128 - 1 of x in 0 to 255.
    np.testing.assert_allclose([opened.pixels.mean, opened.pixels.std], np.full((2, 3), 128 / 255))


@pytest.mark.parametrize("name", ["M", "L"])
def test_the_names_and_shapes_of_the_larger_efficientnets_v2(name):
    module = make(f"EfficientNetV2{name}", 32)
    theirs = {f"{layer.name}/{each.name}": tuple(each.shape) for layer in module.layers for each in layer.weights}
    family, key_mapping = rename.recognise(theirs)
    plan = rename.plan(theirs, key_mapping)
    ours = models.build(f"efficientnet_v2_{name.lower()}", num_classes=CLASSES)
    assert plan.shapes(theirs) == {path: leaf.shape for path, leaf in abstract_variables(ours, 32).items()}
    assert key_mapping.refine(plan.shapes(theirs)) is key_mapping
    fields = {**family.infer(plan.shapes(theirs)), **key_mapping.fields}
    assert models.spec(family.MODEL, fields) == f"efficientnet_v2_{name.lower()}:tf_padding=true,unbiased=false"
    assert (plan.unknown, plan.unused) == ((), ())


def test_an_efficientnet_v2_without_its_own_scaling_gets_the_pixels_of_the_model_around_it(tmp_path):
    images = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(images)
    base = keras.applications.EfficientNetV2S(
        weights=None, include_top=False, include_preprocessing=False, input_shape=(32, 32, 3), pooling="avg"
    )
    module = keras.Model(images, keras.layers.Dense(CLASSES)(base(scaled)))
    pixels = pretrained.open_weights(str(save(module, tmp_path, ".keras"))).pixels
    np.testing.assert_allclose([pixels.mean, pixels.std], [[0.0] * 3, [1.0] * 3], atol=1e-7)


@pytest.mark.parametrize(("name", "stem", "stage"), [("B0", 32, 16), ("B3", 40, 16)])
def test_a_b_of_efficientnet_v2_is_refused(name, stem, stage, tmp_path):
    module = make(f"EfficientNetV2{name}", 32)
    for ending in (".keras", ".weights.h5"):
        with pytest.raises(UserError) as caught:
            pretrained.open_weights(str(save(module, tmp_path, ending)))
        assert "\n" not in str(caught.value)
        assert f"B0 to B3 of Keras (a stem of {stem} channels before a stage of {stage})" in str(caught.value)
        assert "give EfficientNetV2S, M or L" in str(caught.value)
