"""DINOv2, https://arxiv.org/abs/2304.07193, also with registers, https://arxiv.org/abs/2309.16588."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.models import vit, vit_config
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.transformer import ViT
from jaxtl.models.vit import B, L, S, sizes
from jaxtl.preprocessing import IMAGENET, PixelDefaults

_DINO = {"layer_scale": True, "pool": "cls+mean"}

VARIANTS: dict[str, dict[str, Any]] = {
    f"dinov2_{size}14{name}": {**sizes(14, *layers, image_size=518), **_DINO, **registers}
    for size, layers in (("s", S), ("b", B), ("l", L))
    for name, registers in (("", {}), ("_registers", {"registers": 4}))
}

PUBLISHED = {
    "dinov2_s14": "hf:facebook/dinov2-small",
    "dinov2_s14_registers": "hf:facebook/dinov2-with-registers-small",
    "dinov2_b14": "hf:facebook/dinov2-base",
    "dinov2_b14_registers": "hf:facebook/dinov2-with-registers-base",
    "dinov2_l14": "hf:facebook/dinov2-large",
    "dinov2_l14_registers": "hf:facebook/dinov2-with-registers-large",
}

MODEL = ViT
IMAGE_SIZE = 518

ARCHITECTURES = (r"vit_(small|base|large)_patch14(_reg4)?_dinov2",)

_HUGGINGFACE = (
    ("embeddings.patch_embeddings.projection", "patch_embed", "conv"),
    ("embeddings.cls_token", "cls_token", "array"),
    ("embeddings.register_tokens", "reg_token", "array"),
    ("embeddings.position_embeddings", "pos_embed", "array"),
    ("encoder.layer.{i}.norm1", "block{i}/norm1", "norm"),
    ("encoder.layer.{i}.attention.attention.query", "block{i}/attn/qkv", "dense query"),
    ("encoder.layer.{i}.attention.attention.key", "block{i}/attn/qkv", "dense key"),
    ("encoder.layer.{i}.attention.attention.value", "block{i}/attn/qkv", "dense value"),
    ("encoder.layer.{i}.attention.output.dense", "block{i}/attn/proj", "dense"),
    ("encoder.layer.{i}.layer_scale1.lambda1", "block{i}/ls1", "array"),
    ("encoder.layer.{i}.norm2", "block{i}/norm2", "norm"),
    ("encoder.layer.{i}.mlp.fc1", "block{i}/mlp/fc1", "dense"),
    ("encoder.layer.{i}.mlp.fc2", "block{i}/mlp/fc2", "dense"),
    ("encoder.layer.{i}.layer_scale2.lambda1", "block{i}/ls2", "array"),
    ("layernorm", "norm", "norm"),
    ("classifier", "head", "dense"),
)


def _key_mapping(prefix: str, positions: str) -> KeyMapping:
    return KeyMapping(
        "huggingface",
        "torch",
        _HUGGINGFACE,
        prefixes=(prefix, ""),
        fields={"epsilon": 1e-6},
        pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
        unused=vit.HUGGINGFACE_UNUSED,
        positions=positions,
    )


# transformers resizes the positions of the one with antialiasing, those of the other without.
KEY_MAPPINGS = (_key_mapping("dinov2_with_registers.", "antialiased"), _key_mapping("dinov2.", "bicubic"))

infer = vit.infer
from_timm = vit.from_timm
to_timm = vit.to_timm


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is of the giant variant with its gated MLP.
    """
    if config.get("model_type") not in ("dinov2", "dinov2_with_registers"):
        return None
    if config["use_swiglu_ffn"]:
        raise UserError("config.json: a DINOv2 with use_swiglu_ffn (the giant) is not supported; S, B and L are.")
    ratio = config["mlp_ratio"]
    return {
        **vit_config.fields_from_config(config),
        **_DINO,
        "mlp": 0 if ratio == 4 else int(ratio * config["hidden_size"]),
        "registers": config.get("num_register_tokens", 0),
    }


def to_config(model: ViT, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its DINOv2 cannot express the model."""
    hidden = model.mlp or 4 * model.width
    plain = model.clone(layer_scale=False, pool="cls", registers=0, mlp=0)
    shared = vit.to_config(plain, channels=channels)
    if not model.layer_scale or model.pool != "cls+mean" or hidden % model.width or shared is None:
        return None
    del shared["intermediate_size"]
    kind = "WithRegisters" if model.registers else ""
    return {
        **shared,
        "model_type": "dinov2_with_registers" if model.registers else "dinov2",
        "architectures": [f"Dinov2{kind}ForImageClassification"],
        "mlp_ratio": hidden // model.width,
        "use_swiglu_ffn": False,
        **({"num_register_tokens": model.registers} if model.registers else {}),
    }


def extras(model: ViT) -> dict[str, np.ndarray]:
    """Gives the arrays that transformers wants in a file and that no classifier uses: the mask of pretraining."""
    kind = "dinov2_with_registers" if model.registers else "dinov2"
    return {f"{kind}.embeddings.mask_token": np.zeros((1, model.width), np.float32)}
