"""ResNets and their heirs compute what torchvision's, timm's and transformers' own compute."""

import pytest
from real_networks import CLASSES, check, hf, tm, tv
from real_packages import timm, torchvision

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_small_resnets_of_torchvision(block, tmp_path):
    torchvision()
    from torchvision.models import resnet

    module = resnet.ResNet(getattr(resnet, block), [1, 2, 1, 1], num_classes=CLASSES)
    # Down to sides of 25, 13 and 7; those of 48 are even.
    check(module, tmp_path, sizes=(48, 50), after="layer2.0", part="layer2.0")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_those_of_torchvision(name, tmp_path):
    # In training the deep ones amplify rounding where few numbers make a variance, as with the maps of 64 pixels.
    check(tv(name), tmp_path, sizes=(96, 97), after="layer2.1", part="layer2.1")


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_small_resnets_d_of_timm(block, tmp_path):
    timm()
    from timm.models import resnet

    deep = {"stem_type": "deep", "stem_width": 32, "avg_down": True}
    module = resnet.ResNet(getattr(resnet, block), (1, 2, 1, 1), num_classes=CLASSES, **deep)
    check(module, tmp_path, sizes=(48, 50), after="layer2.0", part="layer2.0")


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "resnext50_32x4d", "seresnet50", "seresnext50_32x4d"])
def test_those_of_timm(name, tmp_path):
    # Twelve images make a variance of the last maps of 108 numbers: of 36, rounding on a processor with AVX2 moves
    # the logits of ResNet-50-D by 1.3e-4.
    check(tm(name), tmp_path, sizes=(96, 97), after="layer2.1", part="layer2.1", batch=12)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_those_of_transformers(kind, tmp_path):
    widths = [16, 32, 64, 128] if kind == "basic" else [64, 128, 256, 512]
    module = hf("ResNet", embedding_size=16, hidden_sizes=widths, depths=[1, 2, 1, 1], layer_type=kind)
    check(module, tmp_path, sizes=(64, 97), after="layer2.1", part="resnet.encoder.stages.1.layers.1")


def test_bit_of_timm(tmp_path):
    timm()
    from timm.models import resnetv2

    module = resnetv2._create_resnetv2_bit("resnetv2_50x1_bit", layers=[1, 2], num_classes=CLASSES)
    check(module, tmp_path, sizes=(64, 97), after="layer1.0", part="stages.0.blocks.0")
