"""The key sets of the published sizes, by shapes alone: nothing is downloaded, nothing allocated."""

from functools import cache

import google_references as google
import numpy as np
import pytest
import torch
import transformers
from torch_references import TimmViT, TorchResNet
from transformers.core_model_loading import revert_weight_conversion

from jaxtl import models
from jaxtl.pretrained import rename
from jaxtl.pretrained.load import abstract_variables


def _transformers(config, cls: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = getattr(transformers, cls)(config)
    # What save_pretrained would write: in memory some families have other names.
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(module, module.state_dict()).items()}


def _torch(make) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


class _Shapes(google.Draw):
    def weight(self, name, *shape, fan_in=0):
        self.arrays[name] = np.broadcast_to(np.float32(0), shape)

    def vector(self, name, *shape, around=0.0):
        self.arrays[name] = np.broadcast_to(np.float32(0), shape)


def _google_vit(width, depth, heads, grid, patch) -> dict[str, tuple[int, ...]]:
    draw = _Shapes(0)
    google.draw_embedding(draw, patch, 3, width, grid)
    google.draw_transformer(draw, width, depth, heads, classes=1000, pre_logits=0)
    return {name: array.shape for name, array in draw.arrays.items()}


def _google_bit() -> dict[str, tuple[int, ...]]:
    draw = _Shapes(0)
    google.draw_bit(draw, (3, 4, 6, 3), 64, classes=1000)
    return {name: array.shape for name, array in draw.arrays.items()}


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
CASES = {
    "transformers ViT-B/16": (
        "vit_b16",
        86_567_656,
        lambda: _transformers(transformers.ViTConfig(num_labels=1000), "ViTForImageClassification"),
    ),
    "transformers ViT-L/16": (
        "vit_l16",
        304_326_632,
        lambda: _transformers(transformers.ViTConfig(num_labels=1000, **LARGE), "ViTForImageClassification"),
    ),
    "transformers ResNet-50": (
        "resnet50",
        25_557_032,
        lambda: _transformers(transformers.ResNetConfig(num_labels=1000), "ResNetForImageClassification"),
    ),
    "transformers ResNet-152": (
        "resnet152",
        60_192_808,
        lambda: _transformers(
            transformers.ResNetConfig(num_labels=1000, depths=[3, 8, 36, 3]), "ResNetForImageClassification"
        ),
    ),
    "transformers BiT-R50x1": (
        "bit_r50x1",
        25_549_352,
        lambda: _transformers(transformers.BitConfig(num_labels=1000), "BitForImageClassification"),
    ),
    "transformers DINOv2-S": (
        "dinov2_s14",
        # 22,056,576 with the mask token, and a head on 2 x 384.
        22_056_576 - 384 + 769_000,
        lambda: _transformers(transformers.Dinov2Config(num_labels=1000, **SMALL), "Dinov2ForImageClassification"),
    ),
    "transformers DINOv2-S with registers": (
        "dinov2_s14_registers",
        22_056_576 - 384 + 769_000 + 4 * 384,
        lambda: _transformers(
            transformers.Dinov2WithRegistersConfig(num_labels=1000, num_register_tokens=4, **SMALL),
            "Dinov2WithRegistersForImageClassification",
        ),
    ),
    "timm ViT-L/16": (
        "vit_l16",
        304_326_632,
        lambda: _torch(lambda: TimmViT("vit", 224, 16, 1024, 16, 24, 1000)),
    ),
    "torchvision ResNet-50": (
        "resnet50",
        25_557_032,
        lambda: _torch(lambda: TorchResNet((3, 4, 6, 3), True, 64, 1000)),
    ),
    "torchvision ResNet-152": (
        "resnet152",
        60_192_808,
        lambda: _torch(lambda: TorchResNet((3, 8, 36, 3), True, 64, 1000)),
    ),
    "timm ResNet-50-D": (
        "resnet50d",
        25_576_264,
        lambda: _torch(lambda: TorchResNet((3, 4, 6, 3), True, 64, 1000, d=True)),
    ),
    "Google ViT-B/16": ("vit_b16", 86_567_656, lambda: _google_vit(768, 12, 12, 14, 16)),
    "Google ViT-L/16": ("vit_l16", 304_326_632, lambda: _google_vit(1024, 24, 16, 14, 16)),
    "Google BiT-R50x1": ("bit_r50x1", 25_549_352, _google_bit),
}


@cache
def _ours(name: str):
    model = models.build(name, num_classes=1000)
    return abstract_variables(model, model.image_size)


# A smaller model in the same names is as telling, and those of transformers take seconds to lay out.
DEEPER = (
    "transformers ViT-L/16",
    "Google ViT-L/16",
    "timm ViT-L/16",
    "transformers ResNet-152",
    "torchvision ResNet-152",
    "transformers BiT-R50x1",
    "transformers ViT-B/16",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in DEEPER else ()) for case in CASES]
)
def test_full_size_key_sets(case):
    name, count, make = CASES[case]
    theirs = make()
    family, key_mapping = rename.recognise(theirs)
    plan = rename.plan(theirs, key_mapping)
    assert not plan.unknown
    leaves = _ours(name)
    assert plan.shapes(theirs) == {path: leaf.shape for path, leaf in leaves.items()}
    assert sum(leaf.size for path, leaf in leaves.items() if path.startswith("params/")) == count
    # The names tell what shapes do not: that the shortcuts of a ResNet-D are averaged.
    inferred = {**family.infer(plan.shapes(theirs)), **key_mapping.fields}
    assert models.spec(family.MODEL, inferred).partition(":")[0] == name
