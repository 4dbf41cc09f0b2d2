"""Swin Transformers compute what torchvision's, timm's and transformers' own compute."""

import pytest
from real_networks import CLASSES, check, hf, tm
from real_packages import torchvision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def _torchvision():
    torchvision()
    from torchvision.models import swin_transformer

    sizes = {"embed_dim": 16, "depths": [2, 2, 1], "num_heads": [1, 2, 4], "window_size": [4, 4]}
    return swin_transformer.SwinTransformer([4, 4], num_classes=CLASSES, **sizes)


# Maps of 8, 4 and 2 places in windows of 4: the last one is padded to a window. Those of 19, 10 and 5 all are padded.
def test_swin_of_torchvision(tmp_path):
    check(_torchvision(), tmp_path, sizes=(32, 76), after="stage2.1", part="features.3.1")


# With img_size, timm makes a model of that size: its windows shrink to the map, or are padded after they are shifted.
@pytest.mark.parametrize("size", [64, 44])
def test_swin_of_timm(size, tmp_path):
    module = tm(
        "swin_tiny_patch4_window7_224",
        img_size=size,
        window_size=4,
        embed_dim=16,
        depths=(2, 2, 1),
        num_heads=(1, 2, 4),
    )
    check(module, tmp_path, sizes=(size,), after="stage2.1", part="layers.1")


def test_swin_of_transformers(tmp_path):
    module = hf("Swin", embed_dim=16, depths=[2, 2, 1], num_heads=[1, 2, 4], window_size=4, image_size=64)
    check(module, tmp_path, sizes=(64, 76), after="stage2.1", part="swin.encoder.layers.1.blocks.1")
