"""MobileNets and EfficientNets compute what torchvision's and timm's own compute."""

import pytest
from real_networks import check, tm, tv

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "after", "part"),
    [
        ("mobilenet_v2", "stage3.0", "features.4"),
        ("mobilenet_v3_large", "stage3.0", "features.4"),
        ("mobilenet_v3_small", "stage3.0", "features.4"),
        ("efficientnet_b0", "stage3.0", "features.3.0"),
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
        ("efficientnet_b1", "stage3.0", "blocks.2.0"),
    ],
)
def test_those_of_timm(name, after, part, tmp_path):
    check(tm(name), tmp_path, sizes=(64, 97), after=after, part=part)
