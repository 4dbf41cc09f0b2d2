"""The Vision Transformer, https://arxiv.org/abs/2010.11929: its variants and what others call its arrays."""

import math
from collections.abc import Mapping
from typing import Any

from jaxtl.models import vit_config
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.transformer import ViT
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults


def sizes(patch: int, width: int, depth: int, heads: int, image_size: int = 224) -> dict[str, Any]:
    """Names the sizes of a variant."""
    return {"image_size": image_size, "patch": patch, "width": width, "depth": depth, "heads": heads}


TI, S, B, L, H = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1280, 32, 16)

VARIANTS: dict[str, dict[str, Any]] = {
    "vit_ti16": sizes(16, *TI),
    "vit_s16": sizes(16, *S),
    "vit_s32": sizes(32, *S),
    "vit_b8": sizes(8, *B),
    "vit_b16": sizes(16, *B),
    "vit_b32": sizes(32, *B),
    "vit_l14": sizes(14, *L),
    "vit_l16": sizes(16, *L),
    "vit_l32": sizes(32, *L),
    "vit_h14": sizes(14, *H),
    "vit_petals": sizes(8, 64, 6, 4, image_size=64),
}

BUILDERS = {
    "torchvision": {
        "vit_b16": "vit_b_16",
        "vit_b32": "vit_b_32",
        "vit_l16": "vit_l_16",
        "vit_l32": "vit_l_32",
        "vit_h14": "vit_h_14",
    }
}

PUBLISHED = {
    "vit_ti16": "hf:timm/deit_tiny_patch16_224.fb_in1k",
    "vit_s16": "hf:timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_s32": "hf:timm/vit_small_patch32_224.augreg_in21k_ft_in1k",
    "vit_b16": "hf:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_b32": "hf:timm/vit_base_patch32_224.augreg_in21k_ft_in1k",
    "vit_l16": "hf:timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit_l32": "hf:timm/vit_large_patch32_224.orig_in21k",
    "vit_h14": "hf:timm/vit_huge_patch14_224.orig_in21k",
}

MODEL = ViT
IMAGE_SIZE = 224

ARCHITECTURES = (
    r"vit_(tiny|small|base|large|huge)_patch\d+_\d+(_in21k|_dino|_sam|_miil(_in21k)?)?",  # timm
    r"vit_(b_16|b_32|l_16|l_32|h_14)",  # torchvision
)

TELLTALES = {
    r"(?:blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table": "BEiT",
    r"(?:.*\.)?encoder\.layer\.\d+\.attention\..*relative_position_bias_table": "BEiT",
    r"attn_pool\..*": "SigLIP",
    r"blocks\.\d+\.attn\.rel_pos\..*": "ViT with relative positions",
}

TIMM = (
    ("patch_embed.proj", "patch_embed", "conv"),
    ("cls_token", "cls_token", "array"),
    ("dist_token", "dist_token", "array"),
    ("reg_token", "reg_token", "array"),
    ("pos_embed", "pos_embed", "array"),
    ("blocks.{i}.norm1", "block{i}/norm1", "norm"),
    ("blocks.{i}.attn.qkv", "block{i}/attn/qkv", "dense"),
    ("blocks.{i}.attn.proj", "block{i}/attn/proj", "dense"),
    ("blocks.{i}.ls1.gamma", "block{i}/ls1", "array"),
    ("blocks.{i}.norm2", "block{i}/norm2", "norm"),
    ("blocks.{i}.mlp.fc1", "block{i}/mlp/fc1", "dense"),
    ("blocks.{i}.mlp.fc2", "block{i}/mlp/fc2", "dense"),
    ("blocks.{i}.ls2.gamma", "block{i}/ls2", "array"),
    ("norm", "norm", "norm"),
    ("fc_norm", "fc_norm", "norm"),
    ("pre_logits.fc", "pre_logits", "dense"),
    ("head", "head", "dense"),
    ("head_dist", "head_dist", "dense"),
)

HUGGINGFACE = (
    ("embeddings.patch_embeddings.projection", "patch_embed", "conv"),
    ("embeddings.cls_token", "cls_token", "array"),
    ("embeddings.position_embeddings", "pos_embed", "array"),
    ("encoder.layer.{i}.layernorm_before", "block{i}/norm1", "norm"),
    ("encoder.layer.{i}.attention.attention.query", "block{i}/attn/qkv", "dense query"),
    ("encoder.layer.{i}.attention.attention.key", "block{i}/attn/qkv", "dense key"),
    ("encoder.layer.{i}.attention.attention.value", "block{i}/attn/qkv", "dense value"),
    ("encoder.layer.{i}.attention.output.dense", "block{i}/attn/proj", "dense"),
    ("encoder.layer.{i}.layernorm_after", "block{i}/norm2", "norm"),
    ("encoder.layer.{i}.intermediate.dense", "block{i}/mlp/fc1", "dense"),
    ("encoder.layer.{i}.output.dense", "block{i}/mlp/fc2", "dense"),
    ("layernorm", "norm", "norm"),
    ("classifier", "head", "dense"),
)

_TORCHVISION = (
    ("conv_proj", "patch_embed", "conv"),
    ("class_token", "cls_token", "array"),
    ("encoder.pos_embedding", "pos_embed", "array"),
    ("encoder.layers.encoder_layer_{i}.ln_1", "block{i}/norm1", "norm"),
    ("encoder.layers.encoder_layer_{i}.self_attention.in_proj", "block{i}/attn/qkv", "packed"),
    ("encoder.layers.encoder_layer_{i}.self_attention.out_proj", "block{i}/attn/proj", "dense"),
    ("encoder.layers.encoder_layer_{i}.ln_2", "block{i}/norm2", "norm"),
    ("encoder.layers.encoder_layer_{i}.mlp.0", "block{i}/mlp/fc1", "dense"),
    ("encoder.layers.encoder_layer_{i}.mlp.3", "block{i}/mlp/fc2", "dense"),
    ("encoder.layers.encoder_layer_{i}.mlp.linear_1", "block{i}/mlp/fc1", "dense"),
    ("encoder.layers.encoder_layer_{i}.mlp.linear_2", "block{i}/mlp/fc2", "dense"),
    ("encoder.ln", "norm", "norm"),
    ("heads.pre_logits", "pre_logits", "dense"),
    ("heads.head", "head", "dense"),
)

_GOOGLE_BLOCK = "Transformer/encoderblock_{i}/"
_GOOGLE_ATTENTION = _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/"
GOOGLE = (
    ("embedding", "patch_embed", "conv"),
    ("cls", "cls_token", "array"),
    ("Transformer/posembed_input/pos_embedding", "pos_embed", "array"),
    (_GOOGLE_BLOCK + "LayerNorm_0", "block{i}/norm1", "norm"),
    (_GOOGLE_ATTENTION + "query", "block{i}/attn/qkv", "split query"),
    (_GOOGLE_ATTENTION + "key", "block{i}/attn/qkv", "split key"),
    (_GOOGLE_ATTENTION + "value", "block{i}/attn/qkv", "split value"),
    (_GOOGLE_ATTENTION + "out", "block{i}/attn/proj", "merge"),
    (_GOOGLE_BLOCK + "LayerNorm_2", "block{i}/norm2", "norm"),
    (_GOOGLE_BLOCK + "MlpBlock_3/Dense_0", "block{i}/mlp/fc1", "dense"),
    (_GOOGLE_BLOCK + "MlpBlock_3/Dense_1", "block{i}/mlp/fc2", "dense"),
    ("Transformer/encoder_norm", "norm", "norm"),
    ("pre_logits", "pre_logits", "dense"),
    ("head", "head", "dense"),
)

# Left out: a pooler and a mask token, which only pretraining uses.
HUGGINGFACE_UNUSED = (r"pooler\..*", r"embeddings\.mask_token")

KEY_MAPPINGS = (
    KeyMapping("timm", "torch", TIMM, fields={"epsilon": 1e-6}),
    KeyMapping(
        "huggingface",
        "torch",
        HUGGINGFACE,
        prefixes=("vit.", ""),
        fields={"epsilon": 1e-12},
        unused=HUGGINGFACE_UNUSED,
        positions="bicubic",
    ),
    KeyMapping(
        "torchvision",
        "torch",
        _TORCHVISION,
        fields={"epsilon": 1e-6},
        pixels=PixelDefaults(IMAGENET, "bilinear", 224 / 256),
        positions="corners",
    ),
    KeyMapping(
        "google",
        "flax",
        GOOGLE,
        prefixes=("", "opt/target/"),
        # Flax' own gelu is the approximation, and the weights were trained with it.
        fields={"epsilon": 1e-6, "gelu": "tanh"},
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them.

    The number of heads leaves no trace in them: it is that of the variants of this width, and absent for other widths.
    """
    patch, _, _, width = shapes["params/patch_embed/kernel"]
    depth = sum(path.startswith("params/block") and path.endswith("/attn/qkv/kernel") for path in shapes)
    hidden = shapes["params/block0/mlp/fc1/kernel"][-1]
    registers = shapes.get("params/reg_token", (1, 0, width))[1]
    tokens = ("params/cls_token" in shapes) + ("params/dist_token" in shapes)
    positions = shapes["params/pos_embed"][1]
    embed_prefix = math.isqrt(positions - tokens) ** 2 == positions - tokens
    hiddens = tuple(shapes[f"params/block{i}/mlp/fc1/kernel"][-1] for i in range(depth))
    attended = tuple(shapes[f"params/block{i}/attn/proj/kernel"][0] for i in range(depth))
    doubled = shapes.get("params/head/kernel", (width, 0))[0] == 2 * width
    fields: dict[str, Any] = {
        "image_size": patch * math.isqrt(positions - (tokens if embed_prefix else 0)),
        "patch": patch,
        "width": width,
        "depth": depth,
        "mlp": 0 if hidden == 4 * width else hidden,
        "pool": "cls+mean" if doubled else "cls" if "params/cls_token" in shapes else "mean",
        "class_token": "params/cls_token" in shapes,
        "registers": registers,
        "distilled": "params/dist_token" in shapes,
        "teacher_head": "params/head_dist/kernel" in shapes,
        "embed_prefix": embed_prefix,
        "qkv_bias": "params/block0/attn/qkv/bias" in shapes,
        "layer_scale": "params/block0/ls1" in shapes,
        "pre_norm": "params/norm_pre/scale" in shapes,
        "final_norm": "params/fc_norm/scale" in shapes or "params/norm/scale" in shapes,
        "norm_after_pool": "params/fc_norm/scale" in shapes,
        "pre_logits": shapes.get("params/pre_logits/kernel", (0, 0))[1],
    }
    if "params/fc_norm/scale" in shapes:
        fields["pool"] = "mean"
    if len({*hiddens}) > 1:
        fields |= {"mlp": 0, "block_mlp": hiddens}
    heads = {variant["width"]: variant["heads"] for variant in VARIANTS.values()}
    if width not in heads:
        return fields
    if {*attended} != {width}:
        fields["block_heads"] = tuple(features * heads[width] // width for features in attended)
    return {**fields, "heads": heads[width]}


from_timm = vit_config.from_timm
to_timm = vit_config.to_timm


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type."""
    if config.get("model_type") != "vit":
        return None
    return vit_config.fields_from_config(config)


def to_config(model: ViT, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its ViT cannot express the model."""
    plain = ViT(
        num_classes=model.num_classes,
        **{
            name: getattr(model, name) for name in ("image_size", "patch", "width", "depth", "heads", "mlp", "qkv_bias")
        },
        **{name: getattr(model, name) for name in ("gelu", "epsilon", "dropout", "drop_path", "dtype")},
    )
    if model != plain:
        return None
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        **vit_config.config_from_fields(model, channels=channels),
        "intermediate_size": model.mlp or 4 * model.width,
    }


def torchvision_arguments(model: ViT) -> dict[str, Any]:
    """Gives what torchvision's function takes besides: it is made for one size, whose positions it has."""
    return {} if model.image_size == IMAGE_SIZE else {"image_size": model.image_size}
