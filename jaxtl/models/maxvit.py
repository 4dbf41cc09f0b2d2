"""MaxViT, https://arxiv.org/abs/2204.01697: its variants and what others call its arrays."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows, refuse_timm_changes
from jaxtl.models.maxvit_network import MaxViT
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults

VARIANTS: dict[str, dict[str, Any]] = {
    "maxvit_t": {"blocks": (2, 2, 5, 2)},
    "maxvit_s": {"blocks": (2, 2, 5, 2), "width": 96},
    "maxvit_b": {"blocks": (2, 6, 14, 2), "width": 96},
    "maxvit_l": {"blocks": (2, 6, 14, 2), "width": 128, "stem_width": 128},
}

_LONG = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
PUBLISHED = {f"maxvit_{short}": f"hf:timm/maxvit_{long}_tf_224.in1k" for short, long in _LONG.items()}

MODEL = MaxViT
IMAGE_SIZE = 224

ARCHITECTURES = (
    r"maxvit_(tiny|small|base|large)_tf_(224|384|512)",  # timm
    "maxvit_t",  # torchvision
)

_LAYERS = (
    "pre_norm",
    "expand",
    "expand_bn",
    "depthwise",
    "depthwise_bn",
    "squeeze/reduce",
    "squeeze/expand",
    "project",
)
_KINDS = ("batchnorm", "conv", "batchnorm", "conv", "batchnorm", "pixel", "pixel", "conv")


def _convolution(source: str, target: str, names: tuple[str, ...]) -> Rows:
    found = zip(names, _LAYERS, _KINDS, strict=True)
    return tuple((source + name, f"{target}conv/{ours}", kind) for name, ours, kind in found)


def _attention(source: str, target: str, names: tuple[str, ...], table: tuple[str, str]) -> Rows:
    ours = ("norm1", "attn/qkv", "attn/proj", "norm2", "mlp/fc1", "mlp/fc2")
    kinds = ("norm", "dense", "dense", "norm", "dense", "dense")
    rows = tuple((source + name, target + to, kind) for name, to, kind in zip(names, ours, kinds, strict=True))
    return (*rows, (source + table[0], target + "attn/relative_bias", table[1]))


def _timm() -> Rows:
    block, target = "stages.{s}.blocks.{i}.", "stage{s+1}.{i}/"
    layers = ("pre_norm", "conv1_1x1", "norm1", "conv2_kxk", "norm2", "se.fc1", "se.fc2", "conv3_1x1")
    names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    table = ("attn.rel_pos.relative_position_bias_table", "offsets")
    return (
        ("stem.conv1", "stem_conv1", "conv"),
        ("stem.norm1", "stem_bn", "batchnorm"),
        ("stem.conv2", "stem_conv2", "conv"),
        *_convolution(block + "conv.", target, layers),
        (block + "conv.shortcut.expand", target + "conv/shortcut", "conv"),
        *_attention(block + "attn_block.", target + "window/", names, table),
        *_attention(block + "attn_grid.", target + "grid/", names, table),
        ("head.norm", "norm", "norm"),
        ("head.pre_logits.fc", "pre_logits", "dense"),
        ("head.fc", "head", "dense"),
    )


def _torchvision() -> Rows:
    block, target = "blocks.{s}.layers.{i}.layers.", "stage{s+1}.{i}/"
    squeeze = ("squeeze_excitation.fc1", "squeeze_excitation.fc2")
    layers = ("pre_norm", "conv_a.0", "conv_a.1", "conv_b.0", "conv_b.1", *squeeze, "conv_c")
    attention = ("attn_layer.0", "attn_layer.1.to_qkv", "attn_layer.1.merge")
    names = (*attention, "mlp_layer.0", "mlp_layer.1", "mlp_layer.3")
    table = ("attn_layer.1.relative_position_bias_table", "array")
    return (
        ("stem.0.0", "stem_conv1", "conv"),
        ("stem.0.1", "stem_bn", "batchnorm"),
        ("stem.1.0", "stem_conv2", "conv"),
        *_convolution(block + "MBconv.layers.", target, layers),
        (block + "MBconv.proj.1", target + "conv/shortcut", "conv"),
        *_attention(block + "window_attention.", target + "window/", names, table),
        *_attention(block + "grid_attention.", target + "grid/", names, table),
        ("classifier.2", "norm", "norm"),
        ("classifier.3", "pre_logits", "dense"),
        ("classifier.5", "head", "dense"),
    )


KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        _torchvision(),
        fields={"torchvision": True, "gelu": "exact", "epsilon": 1e-3, "momentum": 0.99},
        pixels=PixelDefaults(IMAGENET, "bicubic", 1.0),
        unused=(*COUNTERS, r".*\.relative_position_index"),
    ),
    KeyMapping(
        "timm",
        "torch",
        _timm(),
        fields={"gelu": "tanh", "epsilon": 1e-3, "momentum": 0.9, "window": 0},
        pixels=PixelDefaults(HALF, "bicubic", 0.95),
        unused=COUNTERS,
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them.

    The size of the images leaves no trace in them: it is the one whose last map is one window.
    """
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/conv/project/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    places, _ = shapes["params/stage1.0/window/attn/relative_bias"]
    window = (math.isqrt(places) + 1) // 2
    return {
        "blocks": tuple(counts[stage] for stage in sorted(counts)),
        "image_size": window * 2 ** (len(counts) + 1),
        "width": shapes["params/stage1.0/conv/project/kernel"][-1],
        "stem_width": shapes["params/stem_conv1/kernel"][-1],
        "window": window,
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model, as far as shapes do not show them.

    Raises:
      ValueError: an argument, or its value, is none that the module has; it names the two.
    """
    refuse_timm_changes({key: value for key, value in arguments.items() if key != "img_size"})
    return {}


def to_timm(model: MaxViT) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such MaxViT.
    """
    side = model.image_size >> (len(model.blocks) + 1)
    usual = (model.torchvision, model.gelu, model.epsilon, model.window or side) == (False, "tanh", 1e-3, side)
    for name, fields in VARIANTS.items():
        sizes = (fields["blocks"], fields.get("width", 64), fields.get("stem_width", 64))
        if usual and sizes == (model.blocks, model.width, model.stem_width):
            return f"maxvit_{_LONG[name.removeprefix('maxvit_')]}_tf_224", {"img_size": model.image_size}
    raise UserError(
        f"timm's MaxViTs have the sizes of {', '.join(VARIANTS)}, and the authors' details, not torchvision's."
    )
