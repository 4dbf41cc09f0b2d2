"""MobileNet V1 computes what timm's and transformers' own compute."""

import pytest
from real_networks import check, hf, tm

pytestmark = pytest.mark.slow


def test_that_of_timm(tmp_path):
    check(tm("mobilenetv1_100"), tmp_path, sizes=(64, 97), after="stage3.0", part="blocks.2.0")


@pytest.mark.parametrize("tf_padding", [True, False])
def test_that_of_transformers(tf_padding, tmp_path):
    module = hf("MobileNetV1", depth_multiplier=0.25, tf_padding=tf_padding, image_size=64)
    for layer in module.modules():
        # It replaces nearly all of the statistics at each batch.
        if hasattr(layer, "momentum"):
            layer.momentum = 0.01
    check(module, tmp_path, sizes=(64, 97), after="stage3.0", part="mobilenet_v1.layer.7")
