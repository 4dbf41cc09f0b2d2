"""The Swin Transformer, https://arxiv.org/abs/2103.14030: its variants and what others call its arrays."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.models.key_mapping import KeyMapping, Rows, refuse_timm_changes
from jaxtl.models.swin_transformer import Swin
from jaxtl.preprocessing import IMAGENET, PixelDefaults

_T = {"blocks": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}
_S = {"blocks": (2, 2, 18, 2), "heads": (3, 6, 12, 24)}
_B = {"blocks": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "width": 128}
_L = {"blocks": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "width": 192}
_384 = {"image_size": 384, "window": 12}

VARIANTS: dict[str, dict[str, Any]] = {
    "swin_t": _T,
    "swin_s": _S,
    "swin_b": _B,
    "swin_l": _L,
    "swin_b_384": {**_B, **_384},
    "swin_l_384": {**_L, **_384},
}

BUILDERS = {"torchvision": {name: name for name in ("swin_t", "swin_s", "swin_b")}}

PUBLISHED = {
    "swin_t": "hf:timm/swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "hf:timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_b": "hf:timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_l": "hf:timm/swin_large_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_b_384": "hf:timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k",
    "swin_l_384": "hf:timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k",
}

MODEL = Swin
IMAGE_SIZE = 224

ARCHITECTURES = (
    r"swin_(tiny|small|base|large)_patch4_window(7_224|12_384)(_in22k)?",  # timm
    r"swin_[tsb]",  # torchvision
)

TELLTALES = {r".*\.(?:logit_scale|cpb_mlp\..*|continuous_position_bias_mlp\..*)": "Swin Transformer V2"}

# Left out: numbers of places and masks, which follow from the sizes, and what only pretraining uses.
_UNUSED = (r".*relative_position_index", r".*attn_mask", r"pooler\..*", r"embeddings\.mask_token")


def _block(source: str, target: str, mlp: tuple[str, str]) -> Rows:
    return (
        (source + "norm1", target + "norm1", "norm"),
        (source + "attn.qkv", target + "attn/qkv", "dense"),
        (source + "attn.proj", target + "attn/proj", "dense"),
        (source + "attn.relative_position_bias_table", target + "attn/relative_bias", "array"),
        (source + "norm2", target + "norm2", "norm"),
        (source + mlp[0], target + "mlp/fc1", "dense"),
        (source + mlp[1], target + "mlp/fc2", "dense"),
    )


def _timm(merged_in: str, head: str) -> Rows:
    """Returns timm's rows, or those of the authors' own files, where the stage before holds what merges."""
    return (
        ("patch_embed.proj", "patch_embed", "conv"),
        ("patch_embed.norm", "stem_norm", "norm"),
        ("layers.{s}.downsample.norm", f"stage{merged_in}.0/downsample_norm", "norm"),
        ("layers.{s}.downsample.reduction", f"stage{merged_in}.0/downsample", "dense"),
        *_block("layers.{s}.blocks.{i}.", "stage{s+1}.{i}/", ("mlp.fc1", "mlp.fc2")),
        ("norm", "norm", "norm"),
        (head, "head", "dense"),
    )


def _torchvision() -> Rows:
    """Returns torchvision's rows, where a list holds stem, stages and what lies between them by turns."""
    rows: list[tuple[str, str, str]] = [("features.0.0", "patch_embed", "conv"), ("features.0.2", "stem_norm", "norm")]
    for stage in range(1, 5):
        rows += _block(f"features.{2 * stage - 1}.{{i}}.", f"stage{stage}.{{i}}/", ("mlp.0", "mlp.3"))
        if stage > 1:
            rows.append((f"features.{2 * stage - 2}.norm", f"stage{stage}.0/downsample_norm", "norm"))
            rows.append((f"features.{2 * stage - 2}.reduction", f"stage{stage}.0/downsample", "dense"))
    return (*rows, ("norm", "norm", "norm"), ("head", "head", "dense"))


_HF, _OURS = "encoder.layers.{s}.blocks.{i}.", "stage{s+1}.{i}/"
_HUGGINGFACE = (
    ("embeddings.patch_embeddings.projection", "patch_embed", "conv"),
    ("embeddings.norm", "stem_norm", "norm"),
    ("encoder.layers.{s}.downsample.norm", "stage{s+2}.0/downsample_norm", "norm"),
    ("encoder.layers.{s}.downsample.reduction", "stage{s+2}.0/downsample", "dense"),
    (_HF + "layernorm_before", _OURS + "norm1", "norm"),
    (_HF + "attention.self.query", _OURS + "attn/qkv", "dense query"),
    (_HF + "attention.self.key", _OURS + "attn/qkv", "dense key"),
    (_HF + "attention.self.value", _OURS + "attn/qkv", "dense value"),
    (_HF + "attention.self.relative_position_bias_table", _OURS + "attn/relative_bias", "array"),
    (_HF + "attention.output.dense", _OURS + "attn/proj", "dense"),
    (_HF + "layernorm_after", _OURS + "norm2", "norm"),
    (_HF + "intermediate.dense", _OURS + "mlp/fc1", "dense"),
    (_HF + "output.dense", _OURS + "mlp/fc2", "dense"),
    ("layernorm", "norm", "norm"),
    ("classifier", "head", "dense"),
)

_PIXELS = PixelDefaults(IMAGENET, "bicubic", 0.9)

KEY_MAPPINGS = (
    KeyMapping(
        "timm", "torch", _timm("{s+1}", "head.fc"), unused=_UNUSED, fields={"shift_first": True}, pixels=_PIXELS
    ),
    KeyMapping(
        "torchvision", "torch", _torchvision(), unused=_UNUSED, pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 232)
    ),
    KeyMapping("huggingface", "torch", _HUGGINGFACE, prefixes=("swin.", ""), unused=_UNUSED, pixels=_PIXELS),
    KeyMapping(
        "microsoft", "torch", _timm("{s+2}", "head"), unused=_UNUSED, fields={"shift_first": True}, pixels=_PIXELS
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them.

    The size of the images leaves no trace in them: it is the one whose last map is one window.

    Raises:
      ValueError: windows grow from stage to stage.
    """
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/norm1/scale", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    tables = [shapes[f"params/stage{stage}.0/attn/relative_bias"] for stage in sorted(counts)]
    windows = [(math.isqrt(places) + 1) // 2 for places, _ in tables]
    if windows != sorted(windows, reverse=True):
        raise ValueError(f"windows of {windows}")
    patch, _, _, width = shapes["params/patch_embed/kernel"]
    return {
        "blocks": tuple(counts[stage] for stage in sorted(counts)),
        "heads": tuple(heads for _, heads in tables),
        "image_size": patch * windows[0] * 2 ** (len(counts) - 1),
        "patch": patch,
        "width": width,
        "window": windows[0],
    }


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it has parts that the module lacks.
    """
    if config.get("model_type") != "swin":
        return None
    wanted = {
        "mlp_ratio": 4,
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
    others = [f"{key} {config[key]!r}" for key, value in wanted.items() if config[key] != value]
    if others:
        raise UserError(f"config.json: a Swin Transformer with {', '.join(others)} is not supported.")
    return {
        "blocks": tuple(config["depths"]),
        "heads": tuple(config["num_heads"]),
        "image_size": config["image_size"],
        "patch": config["patch_size"],
        "width": config["embed_dim"],
        "window": config["window_size"],
    }


def to_config(model: Swin, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its Swin Transformer cannot express the model."""
    # transformers' windows shrink with a small map, but not their tables.
    if model.epsilon != 1e-5 or not _same_windows(model, shrink=False) or min(model.maps) < model.window:
        return None
    return {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification"],
        "num_channels": channels,
        "image_size": model.image_size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depths": list(model.blocks),
        "num_heads": list(model.heads),
        "window_size": model.window,
    }


_TIMM_SHOWN = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "strict_img_size", "dynamic_img_size")
_TIMM_DROPS = ("proj_drop_rate", "attn_drop_rate", "weight_init")


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model, as far as shapes do not show them.

    Raises:
      ValueError: an argument, or its value, is none that the module has; it names the two.
    """
    others = {key: value for key, value in arguments.items() if key not in (*_TIMM_SHOWN, *_TIMM_DROPS)}
    size = others.pop("img_size", None)
    if isinstance(size, (list, tuple)):
        if size[0] != size[-1]:
            raise ValueError(f"img_size={size!r}")
        size = size[0]
    refuse_timm_changes(others)
    return {} if size is None else {"image_size": int(size)}


def as_torchvision(model: Swin) -> Swin:
    """Gives the model that computes the same as torchvision does: where nothing is padded, the order is no matter."""
    return model.clone(shift_first=False) if _same_windows(model, shrink=True) else model


def torchvision_extras(model: Swin) -> dict[str, np.ndarray]:
    """Gives the buffers of a state dict of torchvision: which bias is for which two places of a window."""
    places = np.stack(np.meshgrid(*[np.arange(model.window)] * 2, indexing="ij")).reshape(2, -1)
    offsets = places[:, :, None] - places[:, None] + model.window - 1
    index = (offsets[0] * (2 * model.window - 1) + offsets[1]).reshape(-1)
    return {
        f"features.{2 * stage + 1}.{i}.attn.relative_position_index": index
        for stage, count in enumerate(model.blocks)
        for i in range(count)
    }


def to_timm(model: Swin) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has another epsilon, or shifts and pads the maps in another order.
    """
    if model.epsilon != 1e-5:
        raise UserError(f"timm's Swin Transformer has an epsilon of 1e-5, this one {model.epsilon:g}.")
    if not _same_windows(model, shrink=True):
        maps = ", ".join(map(str, model.maps))
        raise UserError(
            f"timm shifts maps before it pads them, and this model after it: its maps of {maps} are no multiples of "
            f"the window of {model.window}. Train it at a size of images whose maps are."
        )
    return "swin_tiny_patch4_window7_224", {
        "img_size": model.image_size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depths": list(model.blocks),
        "num_heads": list(model.heads),
        "window_size": model.window,
    }


def _same_windows(model: Swin, *, shrink: bool) -> bool:
    """Tells whether the windows are those of a model that shrinks them, or pads them, all the same."""
    return model.shift_first == shrink or all(side % model.window == 0 for side in model.maps)
