"""DeiT with its distillation token, https://arxiv.org/abs/2012.12877, and DeiT III, https://arxiv.org/abs/2204.07118.

A DeiT without that token is a plain ViT, also by its names.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import vit, vit_config
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.transformer import ViT
from jaxtl.models.vit import TI, B, L, S, sizes
from jaxtl.preprocessing import Processor

_DISTILLED = {"distilled": True, "teacher_head": True}
_THIRD = {"layer_scale": True, "embed_prefix": False}

VARIANTS: dict[str, dict[str, Any]] = {
    "deit_ti16_distilled": {**sizes(16, *TI), **_DISTILLED},
    "deit_s16_distilled": {**sizes(16, *S), **_DISTILLED},
    "deit_b16_distilled": {**sizes(16, *B), **_DISTILLED},
    "deit3_s16": {**sizes(16, *S), **_THIRD},
    "deit3_b16": {**sizes(16, *B), **_THIRD},
    "deit3_l16": {**sizes(16, *L), **_THIRD},
}

PUBLISHED = {
    "deit_ti16_distilled": "hf:timm/deit_tiny_distilled_patch16_224.fb_in1k",
    "deit_s16_distilled": "hf:timm/deit_small_distilled_patch16_224.fb_in1k",
    "deit_b16_distilled": "hf:timm/deit_base_distilled_patch16_224.fb_in1k",
    "deit3_s16": "hf:timm/deit3_small_patch16_224.fb_in22k_ft_in1k",
    "deit3_b16": "hf:timm/deit3_base_patch16_224.fb_in22k_ft_in1k",
    "deit3_l16": "hf:timm/deit3_large_patch16_224.fb_in22k_ft_in1k",
}

MODEL = ViT
IMAGE_SIZE = 224

ARCHITECTURES = (
    r"deit_(tiny|small|base)(_distilled)?_patch16_(224|384)",
    r"deit3_(small|base|large|huge)_patch1[46]_(224|384)(_in21ft1k)?",
)

PROCESSOR = Processor("DeiT", interpolation="bicubic")

_STUDENT = (*vit.HUGGINGFACE, ("embeddings.distillation_token", "dist_token", "array"))
_WITH_TEACHER = (
    *(row for row in _STUDENT if row[0] != "classifier"),
    ("cls_classifier", "head", "dense"),
    ("distillation_classifier", "head_dist", "dense"),
)

KEY_MAPPINGS = tuple(
    KeyMapping(
        "huggingface",
        "torch",
        rows,
        prefixes=("deit.", ""),
        fields={"epsilon": 1e-12},
        unused=vit.HUGGINGFACE_UNUSED,
        positions="bicubic",
    )
    for rows in (_STUDENT, _WITH_TEACHER)
)

infer = vit.infer
from_timm = vit.from_timm
to_timm = vit.to_timm


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type."""
    if config.get("model_type") != "deit":
        return None
    teacher = "WithTeacher" in str(config.get("architectures"))
    return {**vit_config.fields_from_config(config), "distilled": True, "teacher_head": teacher}


def to_config(model: ViT, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its DeiT cannot express the model."""
    if not model.distilled:
        return None
    plain = vit.to_config(model.clone(distilled=False, teacher_head=False), channels=channels)
    teacher = "WithTeacher" if model.teacher_head else ""
    return plain and {**plain, "model_type": "deit", "architectures": [f"DeiTForImageClassification{teacher}"]}
