"""EfficientNet, https://arxiv.org/abs/1905.11946."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import differences, from_timm_efficientnet, to_timm_efficientnet
from jaxtl.models.efficientnet_rows import TIMM_ROWS, huggingface_rows, keras_rows, torchvision_rows
from jaxtl.models.key_mapping import COUNTERS, KeyMapping
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.models.layers.squeeze_excite import divisible
from jaxtl.preprocessing import IMAGENET, PixelDefaults, Processor

# Of each stage of B0: how much it expands, window, stride of its first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(InvertedResidualNet):
    """An EfficientNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      depths: the number of blocks in each stage.
      widths: channels of each stage.
    """

    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    activation: str = "swish"
    squeeze_activation: str = "swish"

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, in their order."""
        found, before = {}, self.stem_width
        sizes = zip(_STAGES, self.widths, self.depths, strict=True)
        for stage, ((ratio, size, stride, _, _), width, depth) in enumerate(sizes, start=1):
            for i in range(depth):
                found[f"stage{stage}.{i}"] = BlockSpec(
                    width, ratio * before, size, stride if i == 0 else 1, max(1, before // 4), "swish"
                )
                before = width
        return found


def _sizes(width: float, depth: float, image_size: int) -> dict[str, Any]:
    """Returns the fields of B0 made wider and deeper, for larger images."""
    return {
        "depths": tuple(math.ceil(depth * stage[4]) for stage in _STAGES),
        "widths": tuple(divisible(width * stage[3]) for stage in _STAGES),
        "stem_width": divisible(width * 32),
        "last_width": divisible(width * 1280),
        "image_size": image_size,
    }


# How much wider and deeper than B0, and the side of the images.
_COEFFICIENTS = {
    "efficientnet_b0": (1.0, 1.0, 224),
    "efficientnet_b1": (1.0, 1.1, 240),
    "efficientnet_b2": (1.1, 1.2, 260),
    "efficientnet_b3": (1.2, 1.4, 300),
    "efficientnet_b4": (1.4, 1.8, 380),
    "efficientnet_b5": (1.6, 2.2, 456),
    "efficientnet_b6": (1.8, 2.6, 528),
    "efficientnet_b7": (2.0, 3.1, 600),
}

VARIANTS: dict[str, dict[str, Any]] = {name: _sizes(*coefficients) for name, coefficients in _COEFFICIENTS.items()}

PUBLISHED = {
    "efficientnet_b0": "hf:timm/efficientnet_b0.ra_in1k",
    "efficientnet_b1": "hf:timm/efficientnet_b1.ft_in1k",
    "efficientnet_b2": "hf:timm/efficientnet_b2.ra_in1k",
    "efficientnet_b3": "hf:timm/efficientnet_b3.ra2_in1k",
    "efficientnet_b4": "hf:timm/efficientnet_b4.ra2_in1k",
    "efficientnet_b5": "https://download.pytorch.org/models/efficientnet_b5_lukemelas-1a07897c.pth",
    "efficientnet_b6": "https://download.pytorch.org/models/efficientnet_b6_lukemelas-24a108a5.pth",
    "efficientnet_b7": "https://download.pytorch.org/models/efficientnet_b7_lukemelas-c5b4e57e.pth",
}

BUILDERS = {"torchvision": {name: name for name in VARIANTS}}

MODEL = EfficientNet
IMAGE_SIZE = 224

ARCHITECTURES = (r"(tf_)?efficientnet_b[0-7]",)

PROCESSOR = Processor("EfficientNet", interpolation="bicubic", divides_twice=True)

# What timm took over from TensorFlow.
NAMED_FIELDS = {r"^tf_efficientnet_b[0-7](?=[-_.]|$)": {"tf_padding": True, "epsilon": 1e-3}}


def _of_torchvision(shapes: Mapping[str, tuple[int, ...]]) -> KeyMapping:
    """Gives the convention of a torchvision file: B5 to B7 were trained in TensorFlow and normalise as there."""
    wide = shapes.get("params/stage7.0/project/kernel", (0,))[-1] >= _WIDE
    return _TORCHVISION_WIDE if wide else _TORCHVISION


_WIDE = VARIANTS["efficientnet_b5"]["widths"][-1]
_TORCHVISION = KeyMapping(
    "torchvision",
    "torch",
    torchvision_rows(),
    pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
    unused=COUNTERS,
    refine=_of_torchvision,
)
_TORCHVISION_WIDE = replace(
    _TORCHVISION,
    fields={"epsilon": 1e-3, "momentum": 0.99},
    pixels=PixelDefaults(IMAGENET, "bicubic", 1.0),
    refine=None,
)

KEY_MAPPINGS = (
    _TORCHVISION,
    KeyMapping("timm", "torch", TIMM_ROWS, pixels=PixelDefaults(IMAGENET, "bicubic", 0.875), unused=COUNTERS),
    *(
        KeyMapping(
            "huggingface",
            "torch",
            huggingface_rows(depths),
            prefixes=("efficientnet.", ""),
            # Its code takes the share 0.99 that is kept for the share that is new, and would keep 0.01.
            fields={"epsilon": 1e-3, "momentum": 0.99, "hf_padding": True},
            pixels=PixelDefaults(IMAGENET, "bicubic", 1.0),
            unused=COUNTERS,
        )
        for depths in dict.fromkeys(fields["depths"] for fields in VARIANTS.values())
    ),
    KeyMapping(
        "keras",
        "keras",
        keras_rows("dwconv", "abcdefghijklm"),
        fields={"tf_padding": True, "epsilon": 1e-3, "momentum": 0.99, "unbiased": False},
        pixels=PixelDefaults(IMAGENET, "bilinear", 0.875),
        # What it normalises pixels with is read as their mean and standard deviation.
        unused=(r"normalization/(mean|variance|count)",),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/project/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    if sorted(counts) != [1, 2, 3, 4, 5, 6, 7]:
        raise ValueError("no EfficientNet")
    return {
        "depths": tuple(counts[stage] for stage in sorted(counts)),
        "widths": tuple(shapes[f"params/stage{stage}.0/project/kernel"][-1] for stage in sorted(counts)),
        "stem_width": shapes["params/stem_conv/kernel"][-1],
        "last_width": shapes["params/last_conv/kernel"][-1],
    }


# What the published ones have in common.
_USUAL = {
    "kernel_sizes": [stage[1] for stage in _STAGES],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "expand_ratios": [stage[0] for stage in _STAGES],
    "in_channels": [32, *(stage[3] for stage in _STAGES[:-1])],
    "out_channels": [stage[3] for stage in _STAGES],
    "num_block_repeats": [stage[4] for stage in _STAGES],
    "depth_divisor": 8,
    "squeeze_expansion_ratio": 0.25,
    "pooling_type": "mean",
}


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is of an EfficientNet that differs from the published ones in more than width and depth.
    """
    if config.get("model_type") != "efficientnet":
        return None
    others = [
        f"{key} {config[key]}"
        for key, value in _USUAL.items()
        if (list(config[key]) if isinstance(value, list) else config[key]) != value
    ]
    if config["hidden_act"] not in ("swish", "silu"):
        others.append(f"hidden_act {config['hidden_act']}")
    if others:
        raise UserError(f"config.json: an EfficientNet with {', '.join(others)} is not supported.")
    sizes = _sizes(config["width_coefficient"], config["depth_coefficient"], 0)
    return {
        **{key: value for key, value in sizes.items() if key != "image_size"},
        "epsilon": config["batch_norm_eps"],
        "momentum": config["batch_norm_momentum"],
        "hf_padding": True,
        "centred": tuple(config["depthwise_padding"]),
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model; see `from_timm_efficientnet`."""
    return from_timm_efficientnet(arguments)


def to_timm(model: EfficientNet) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such network.
    """
    return to_timm_efficientnet(model, VARIANTS)


def to_config(model: EfficientNet, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its EfficientNet cannot express the model.

    It pads after the size that it is made for, so that TensorFlow's padding is written for the model's own.
    """
    centred = model.centred if model.hf_padding else _centred_blocks(model)
    if centred is None:
        return None
    same = model.clone(hf_padding=True, centred=centred, tf_padding=False)
    conventions = {"epsilon": model.epsilon, "hf_padding": True, "centred": centred}
    for name, (width, depth, _) in _COEFFICIENTS.items():
        if not differences(same, {**VARIANTS[name], **conventions}):
            return {
                "model_type": "efficientnet",
                "architectures": ["EfficientNetForImageClassification"],
                "num_channels": channels,
                "image_size": model.image_size,
                "width_coefficient": width,
                "depth_coefficient": depth,
                "hidden_dim": model.last_width,
                "depthwise_padding": list(centred),
                "batch_norm_eps": model.epsilon,
            }
    return None


def _centred_blocks(model: EfficientNet) -> tuple[int, ...] | None:
    """Numbers the blocks whose windows TensorFlow centres at the model's size; None if it pads otherwise."""
    if not model.tf_padding or model.image_size % 2:
        return None
    side, found = model.image_size // 2, []
    for number, block in enumerate(model.blocks().values()):
        if block.stride == 2:
            found += [number] if side % 2 else []
            side = -(-side // 2)
    return tuple(found)
