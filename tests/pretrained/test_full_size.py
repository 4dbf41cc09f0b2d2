"""The key sets of the published sizes, by shapes alone: nothing is downloaded, nothing allocated."""

from functools import cache

import google_references as google
import numpy as np
import pytest
import torch
import transformers
from real_packages import timm, torchvision
from transformers.core_model_loading import revert_weight_conversion

from jaxtl import models
from jaxtl.pretrained import rename
from jaxtl.pretrained.load import abstract_variables

pytestmark = pytest.mark.slow  # Smaller models in the same names are as telling, and these take seconds to lay out.


def _transformers(config, cls: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = getattr(transformers, cls)(config)
    # What save_pretrained would write: in memory some families have other names.
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(module, module.state_dict()).items()}


def _timm(name: str):
    return lambda: _shapes(timm().create_model, name, num_classes=1000)


def _torchvision(name: str):
    return lambda: _shapes(getattr(torchvision().models, name))


def _shapes(make, *arguments, **options) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = make(*arguments, **options)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


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
    "transformers Swin-T": (
        "swin_t",
        28_288_354,
        lambda: _transformers(transformers.SwinConfig(num_labels=1000), "SwinForImageClassification"),
    ),
    "transformers CLIP ViT-B/32": (
        "clip_b32:pool=mean,final_norm=false",
        # 88,225,000 with the last norm, which its classifier does not read.
        88_225_000 - 2 * 768,
        lambda: _transformers(transformers.CLIPConfig(num_labels=1000), "CLIPForImageClassification"),
    ),
    "timm ViT-L/16": ("vit_l16", 304_326_632, _timm("vit_large_patch16_224")),
    "timm ResNet-50-D": ("resnet50d", 25_576_264, _timm("resnet50d")),
    "timm Swin-B": ("swin_b", 87_768_224, _timm("swin_base_patch4_window7_224")),
    "timm Swin-L at 384": ("swin_l_384", 196_735_516, _timm("swin_large_patch4_window12_384")),
    "timm MaxViT-T": ("maxvit_t", 30_916_528, _timm("maxvit_tiny_tf_224")),
    "timm CLIP ViT-B/16": ("clip_b16", 86_568_424, _timm("vit_base_patch16_clip_224")),
    "timm BiT-R50x1": ("bit_r50x1", 25_549_352, _timm("resnetv2_50x1_bit")),
    "timm BiT-R101x3": ("bit_r101x3", 387_934_888, _timm("resnetv2_101x3_bit")),
    "timm R26+ViT-S/32": ("vit_r26_s32", 36_431_912, _timm("vit_small_r26_s32_224")),
    "timm R50+ViT-L/32": ("vit_r50_l32", 328_994_856, _timm("vit_large_r50_s32_224")),
    "torchvision ResNet-50": ("resnet50", 25_557_032, _torchvision("resnet50")),
    "torchvision ResNet-152": ("resnet152", 60_192_808, _torchvision("resnet152")),
    "torchvision ViT-B/16": ("vit_b16", 86_567_656, _torchvision("vit_b_16")),
    "torchvision Swin-S": ("swin_s", 49_606_258, _torchvision("swin_s")),
    "torchvision MaxViT-T": ("maxvit_t:torchvision=true", 30_919_624, _torchvision("maxvit_t")),
    "Google ViT-B/16": ("vit_b16", 86_567_656, lambda: _google_vit(768, 12, 12, 14, 16)),
    "Google ViT-L/16": ("vit_l16", 304_326_632, lambda: _google_vit(1024, 24, 16, 14, 16)),
    "Google BiT-R50x1": ("bit_r50x1", 25_549_352, _google_bit),
}


@cache
def _ours(name: str):
    model = models.build(name, num_classes=1000)
    return abstract_variables(model, model.image_size)


@pytest.mark.parametrize("case", CASES)
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
    assert models.spec(family.MODEL, inferred).partition(":")[0] == name.partition(":")[0]
