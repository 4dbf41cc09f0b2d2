"""ConvNeXts compute what torchvision's, timm's and transformers' own compute."""

import pytest
from real_networks import CLASSES, check, hf
from real_packages import timm, torchvision

pytestmark = pytest.mark.slow


def test_convnext_of_torchvision(tmp_path):
    torchvision()
    from torchvision.models import convnext

    blocks = [convnext.CNBlockConfig(16 * 2**i, 32 * 2**i if i < 3 else None, 1 + i % 2) for i in range(4)]
    module = convnext.ConvNeXt(blocks, num_classes=CLASSES)
    check(module, tmp_path, sizes=(64, 70), after="stage2.1", part="features.3.1")


@pytest.mark.parametrize("pixelwise", [False, True])
def test_convnext_of_timm(pixelwise, tmp_path):
    timm()
    from timm.models import convnext

    # Its smaller ones, up to "nano", write the MLP as convolutions of one pixel.
    module = convnext.ConvNeXt(depths=(1, 2, 1, 1), dims=(16, 32, 64, 128), conv_mlp=pixelwise, num_classes=CLASSES)
    check(module, tmp_path, sizes=(64, 96), after="stage2.1", part="stages.1.blocks.1")


def test_convnext_of_transformers(tmp_path):
    module = hf("ConvNext", depths=[1, 2, 1, 1], hidden_sizes=[16, 32, 64, 128])
    check(module, tmp_path, sizes=(64, 96), after="stage2.1", part="convnext.encoder.stages.1.layers.1")
