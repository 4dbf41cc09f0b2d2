"""Files in timm's and torchvision's names compute what independently written models of theirs compute."""

import numpy as np
import pytest
import torch
from parity import images, load, nchw, nhwc, outputs, randomise, same, train_once
from safetensors.torch import save_file
from torch_references import CifarResNet, TimmViT, TorchResNet, TorchvisionViT

from jaxtl import pretrained


@pytest.mark.parametrize("kind", ["vit", "distilled", "deit3", "registers", "average"])
def test_timm_vision_transformers(kind, tmp_path):
    module = randomise(TimmViT(kind)).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    for size in (32, 24):
        model, variables = load(tmp_path / "model.safetensors", num_classes=5, image_size=size)
        batch = images(size)
        middle, logits = outputs(model, variables, batch, after="block1")
        with torch.no_grad():
            expected_middle, expected = module(nchw(batch))
        same(logits, expected)
        same(middle, expected_middle)


def test_torchvision_vision_transformer(tmp_path):
    module = randomise(TorchvisionViT()).eval()
    path = tmp_path / "vit.pth"
    torch.save(module.state_dict(), path)
    for size in (32, 48):
        model, variables = load(path, num_classes=5, image_size=size)
        # torchvision has its positions resized before they are loaded.
        module.encoder.pos_embedding = torch.nn.Parameter(torch.tensor(np.asarray(variables["params"]["pos_embed"])))
        batch = images(size)
        middle, logits = outputs(model, variables, batch, after="block1")
        with torch.no_grad():
            expected_middle, expected = module(nchw(batch))
        same(logits, expected)
        same(middle, expected_middle)


@pytest.mark.parametrize(
    ("bottleneck", "d"),
    [
        pytest.param(False, False, id="torchvision_basic"),
        pytest.param(True, False, id="torchvision_bottleneck", marks=pytest.mark.slow),
        pytest.param(False, True, id="timm_d_basic", marks=pytest.mark.slow),
        pytest.param(True, True, id="timm_d_bottleneck"),
    ],
)
def test_torchvision_resnet_and_timm_resnet_d(bottleneck, d, tmp_path):
    module = randomise(TorchResNet(bottleneck=bottleneck, d=d)).eval()
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": {f"module.{name}": array for name, array in module.state_dict().items()}}, path)
    model, variables = load(path, num_classes=5, image_size=50)
    batch = images(50)  # Down to sides of 25, 13 and 7; those of 48 below are even.
    middle, logits = outputs(model, variables, batch, after="layer2.0")
    with torch.no_grad():
        expected_middle, expected = module(nchw(batch))
    same(logits, expected)
    same(middle, nhwc(expected_middle))

    module.train()
    batch = images(48, count=4)
    logits, statistics = train_once(model, variables, batch)
    same(logits, module(nchw(batch))[1])
    updated = dict(module.named_buffers())
    same(statistics["bn1_2/mean" if d else "bn1/mean"], updated["bn1.running_mean"])
    same(statistics["layer3.1/bn2/var"], updated["layer3.1.bn2.running_var"])
    shortcut = "layer2.0.downsample.2.running_var" if d else "layer2.0.downsample.1.running_var"
    same(statistics["layer2.0/downsample_bn/var"], updated[shortcut])


def test_cifar_resnet(tmp_path):
    module = randomise(CifarResNet()).eval()
    path = tmp_path / "resnet14.th"
    torch.save({"state_dict": {f"module.{name}": array for name, array in module.state_dict().items()}}, path)
    model, variables = load(path, num_classes=5, image_size=40)
    batch = images(40)
    middle, logits = outputs(model, variables, batch, after="layer2.1")
    with torch.no_grad():
        expected_middle, expected = module(nchw(batch))
    same(logits, expected)
    same(middle, nhwc(expected_middle))

    module.train()
    batch = images(32, count=4)
    logits, statistics = train_once(model, variables, batch)
    same(logits, module(nchw(batch))[1])
    same(statistics["layer3.1/bn2/var"], dict(module.named_buffers())["layer3.1.bn2.running_var"])


def test_bottlenecks_are_not_taken_for_basic_blocks(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save(TorchResNet(stages=(3, 4, 6, 3), width=64, classes=7).state_dict(), path)
    opened = pretrained.open_weights(str(path))
    assert (opened.model, opened.num_classes, opened.key_mapping.name) == ("resnet50", 7, "torchvision")
