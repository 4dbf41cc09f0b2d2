"""ResNets of CIFAR compute what an independently written model computes; no package has them."""

import pytest
import torch
from parity import images, load, nchw, nhwc, outputs, randomise, same, train_once
from torch_references import CifarResNet, TorchResNet

from jaxtl import pretrained


@pytest.mark.slow
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
