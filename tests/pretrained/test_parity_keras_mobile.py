"""Keras' MobileNets and EfficientNets, saved by Keras, compute the same here from the same pixels."""

import jax
import keras
import pytest
from keras_networks import check, make

from jaxtl import pretrained
from jaxtl.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def _check(
    name, folder, *, endings=(".keras", ".weights.h5"), after, part, preprocess=lambda batch: batch, **arguments
):
    check(
        make(name, 64, **arguments),
        folder,
        endings=endings,
        sizes=(64, 90),
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
