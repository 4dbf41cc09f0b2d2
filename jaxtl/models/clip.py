"""The image tower of CLIP, https://arxiv.org/abs/2103.00020: a ViT with a norm before its blocks."""

from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models import vit, vit_config
from jaxtl.models.key_mapping import KeyMapping, Rows
from jaxtl.models.transformer import ViT
from jaxtl.models.vit import B, H, L, sizes
from jaxtl.preprocessing import PixelDefaults

_CLIP = {"pre_norm": True, "epsilon": 1e-5}

VARIANTS: dict[str, dict[str, Any]] = {
    "clip_b16": {**sizes(16, *B), **_CLIP},
    "clip_b32": {**sizes(32, *B), **_CLIP},
    "clip_l14": {**sizes(14, *L), **_CLIP},
    "clip_h14": {**sizes(14, *H), **_CLIP},
}

PUBLISHED = {
    "clip_b16": "hf:timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "clip_b32": "hf:timm/vit_base_patch32_clip_224.laion2b_ft_in12k_in1k",
    "clip_l14": "hf:timm/vit_large_patch14_clip_224.laion2b_ft_in12k_in1k",
    "clip_h14": "hf:timm/vit_huge_patch14_clip_224.laion2b_ft_in12k_in1k",
}

MODEL = ViT
IMAGE_SIZE = 224

ARCHITECTURES = (r"vit_(base|large|huge)_patch(14|16|32)_clip_(quickgelu_)?\d{3}",)

TELLTALES = {r"(?:visual\.)?ln_pre\..*": "CLIP in the names of its authors"}

NAMED_FIELDS = {"_clip_quickgelu": {"gelu": "quick"}}

_BLOCK = "encoder.layers.{i}."
_HUGGINGFACE = (
    ("embeddings.patch_embedding", "patch_embed", "conv"),
    ("embeddings.class_embedding", "cls_token", "token"),
    ("embeddings.position_embedding.weight", "pos_embed", "batched"),
    ("pre_layrnorm", "norm_pre", "norm"),
    (_BLOCK + "layer_norm1", "block{i}/norm1", "norm"),
    (_BLOCK + "self_attn.q_proj", "block{i}/attn/qkv", "dense query"),
    (_BLOCK + "self_attn.k_proj", "block{i}/attn/qkv", "dense key"),
    (_BLOCK + "self_attn.v_proj", "block{i}/attn/qkv", "dense value"),
    (_BLOCK + "self_attn.out_proj", "block{i}/attn/proj", "dense"),
    (_BLOCK + "layer_norm2", "block{i}/norm2", "norm"),
    (_BLOCK + "mlp.fc1", "block{i}/mlp/fc1", "dense"),
    (_BLOCK + "mlp.fc2", "block{i}/mlp/fc2", "dense"),
)
_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_PIXELS = PixelDefaults(_STATISTICS, "bicubic", 1.0)
# Left out: the tower for texts, and what compares the two.
_UNUSED = (r"text_model\..*", r"(visual|text)_projection\..*", r"logit_scale", r"embeddings\.position_ids")


def _huggingface(row: tuple[str, str, str], fields: Mapping[str, Any], unused: tuple[str, ...]) -> KeyMapping:
    rows: Rows = (*_HUGGINGFACE, row)
    fields = {"epsilon": 1e-5, "gelu": "quick", **fields}
    prefixes = ("vision_model.", "")
    return KeyMapping(
        "huggingface", "torch", rows, prefixes, fields, _PIXELS, unused=(*_UNUSED, *unused), positions="bicubic"
    )


KEY_MAPPINGS = (
    KeyMapping("timm", "torch", (*vit.TIMM, ("norm_pre", "norm_pre", "norm")), fields={"epsilon": 1e-5}),
    _huggingface(("post_layernorm", "norm", "norm"), {"pool": "cls"}, ()),
    # The classifier of transformers reads the mean of the patches before the last norm, which its files hold unused.
    _huggingface(("classifier", "head", "dense"), {"pool": "mean"}, (r"post_layernorm\..*",)),
)

infer = vit.infer
from_timm = vit.from_timm


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type."""
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        return None
    classifier = "CLIPForImageClassification" in (config.get("architectures") or ())
    vision = {"qkv_bias": True, **(config["vision_config"] if kind == "clip" else config)}
    return {
        **vit_config.fields_from_config(vision),
        "pre_norm": True,
        "pool": "mean" if classifier else "cls",
        "final_norm": not classifier,
    }


def to_timm(model: ViT) -> tuple[str, dict[str, Any]] | None:
    """Writes the architecture and the arguments by which timm's create_model makes the model; None for a plain ViT.

    Raises:
      UserError: timm's CLIP has another epsilon, or a norm after the last block.
    """
    if not model.pre_norm:
        return None
    if model.epsilon != 1e-5 or not model.final_norm:
        raise UserError(
            "timm's CLIP has an epsilon of 1e-5 and a norm after its last block, this model "
            f"{model.epsilon:g} and {'one' if model.final_norm else 'none'}."
        )
    made = vit.to_timm(model.clone(pre_norm=False, epsilon=1e-6))
    return made and ("vit_base_patch16_clip_224", made[1])
