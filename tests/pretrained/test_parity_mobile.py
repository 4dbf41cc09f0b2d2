"""MobileNets and EfficientNets compute what torchvision's and timm's own compute."""

import pytest
from real_networks import check, hf, tm, tv
from torch import nn

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "after", "part"),
    [
        ("mobilenet_v2", "stage3.0", "features.4"),
        ("mobilenet_v3_large", "stage3.0", "features.4"),
        ("mobilenet_v3_small", "stage3.0", "features.4"),
        ("efficientnet_b0", "stage3.0", "features.3.0"),
        ("efficientnet_b5", "stage3.0", "features.3.0"),
        ("efficientnet_v2_s", "stage3.0", "features.3.0"),
    ],
)
def test_those_of_torchvision(name, after, part, tmp_path):
    check(tv(name), tmp_path, sizes=(64, 97), after=after, part=part)


@pytest.mark.parametrize(
    ("name", "after", "part"),
    [
        ("mobilenetv2_100", "stage3.0", "blocks.2.0"),
        ("mobilenetv3_large_100", "stage3.0", "blocks.2.0"),
        ("mobilenetv3_small_100", "stage3.0", "blocks.2.0"),
        ("mobilenetv2_050", "stage3.0", "blocks.2.0"),
        ("mobilenetv2_110d", "stage3.0", "blocks.2.0"),
        ("tf_mobilenetv3_small_100", "stage3.0", "blocks.2.0"),
        ("efficientnet_b1", "stage3.0", "blocks.2.0"),
        ("efficientnet_b5", "stage3.0", "blocks.2.0"),
        ("tf_efficientnet_b0", "stage3.0", "blocks.2.0"),
        ("efficientnetv2_s", "stage3.0", "blocks.2.0"),
        ("tf_efficientnetv2_s", "stage3.0", "blocks.2.0"),
    ],
)
def test_those_of_timm(name, after, part, tmp_path):
    check(tm(name), tmp_path, sizes=(64, 97), after=after, part=part)


def keep_statistics_as_meant(module, kept):
    # transformers hands TensorFlow's share that is kept to PyTorch, which takes the share that is new.
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1 - kept
    return module


def test_mobilenet_v2_of_transformers(tmp_path):
    module = keep_statistics_as_meant(hf("MobileNetV2", depth_multiplier=0.35), 0.997)
    check(module, tmp_path, sizes=(64, 97), after="stage3.0", part="mobilenet_v2.layer.2")


@pytest.mark.parametrize("centred", [(), (3,)])
def test_efficientnet_of_transformers(centred, tmp_path):
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.1, "hidden_dim": 1280}
    module = keep_statistics_as_meant(hf("EfficientNet", depthwise_padding=list(centred), **sizes), 0.99)
    check(module, tmp_path, sizes=(64, 97), after="stage3.0", part="efficientnet.encoder.blocks.5")
