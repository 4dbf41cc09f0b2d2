"""What config.json of transformers and arguments of timm's create_model say of a ViT, and of its heirs."""

from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.transformer import ViT

_TIMM_POOLS = {"token": "cls", "avg": "mean"}
_TIMM_ACTIVATIONS = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
# Shapes show what these say, or they change nothing that is computed in evaluation.
_TIMM_SHOWN = (
    *("img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "init_values", "class_token"),
    *("no_embed_class", "reg_tokens", "fc_norm", "in_chans", "num_classes", "dynamic_img_size", "dynamic_img_pad"),
    *("drop_rate", "drop_path_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "patch_drop_rate"),
    "weight_init",
)


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model, as far as shapes do not show them.

    Raises:
      ValueError: an argument, or its value, is none that the module has; it names the two.
    """
    fields: dict[str, Any] = {}
    for key, value in arguments.items():
        if key == "num_heads":
            fields["heads"] = int(value)
        elif key == "global_pool" and value in _TIMM_POOLS:
            fields["pool"] = _TIMM_POOLS[value]
        elif key == "act_layer" and value in _TIMM_ACTIVATIONS:
            fields["gelu"] = _TIMM_ACTIVATIONS[value]
        elif key not in _TIMM_SHOWN:
            raise ValueError(f"{key}={value!r}")
    return fields


_ACTIVATIONS = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "quick_gelu": "quick"}


def fields_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields that the configurations of ViT, DeiT and DINOv2 in transformers share.

    Raises:
      UserError: the activation is none that the module has.
    """
    if config["hidden_act"] not in _ACTIVATIONS:
        raise UserError(f"config.json: hidden_act {config['hidden_act']!r} is none of {', '.join(_ACTIVATIONS)}.")
    mlp = config.get("intermediate_size", 0)
    return {
        "image_size": config["image_size"],
        "patch": config["patch_size"],
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp": 0 if mlp == 4 * config["hidden_size"] else mlp,
        "qkv_bias": config["qkv_bias"],
        "gelu": _ACTIVATIONS[config["hidden_act"]],
        "epsilon": config["layer_norm_eps"],
    }


def config_from_fields(model: ViT, *, channels: int) -> dict[str, Any]:
    """Writes what `fields_from_config` reads."""
    return {
        "image_size": model.image_size,
        "patch_size": model.patch,
        "num_channels": channels,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "qkv_bias": model.qkv_bias,
        "hidden_act": next(name for name, kind in _ACTIVATIONS.items() if kind == model.gelu),
        "layer_norm_eps": model.epsilon,
    }


def to_timm(model: ViT) -> tuple[str, dict[str, Any]] | None:
    """Writes the architecture and the arguments by which timm's create_model makes the model; None for a CLIP.

    Raises:
      UserError: timm's epsilon of 1e-6 is not that of the model, or it has no such pooling.
    """
    if model.pre_norm or not model.final_norm:
        return None
    if model.epsilon != 1e-6:
        raise UserError(f"timm's ViT has an epsilon of 1e-6, this one {model.epsilon:g}.")
    if model.block_mlp or model.block_heads:
        raise UserError("timm's ViT has as many heads and MLP units in each block, this one has not.")
    if model.pool == "cls+mean":
        raise UserError("timm has no head on the class token and the mean together.")
    arguments = {
        "img_size": model.image_size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": (model.mlp or 4 * model.width) / model.width,
        "qkv_bias": model.qkv_bias,
        "init_values": 1e-5 if model.layer_scale else None,
        "act_layer": next(name for name, kind in _TIMM_ACTIVATIONS.items() if kind == model.gelu),
    }
    if model.teacher_head:
        return "deit_base_distilled_patch16_224", arguments
    arguments |= {
        "global_pool": "token" if model.pool == "cls" else "avg",
        "class_token": model.class_token,
        "no_embed_class": not model.embed_prefix,
        "reg_tokens": model.registers,
        "fc_norm": model.norm_after_pool,
    }
    return "vit_base_patch16_224", arguments
