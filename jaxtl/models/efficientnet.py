"""EfficientNet, https://arxiv.org/abs/1905.11946."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import differences, from_timm_efficientnet, to_timm_efficientnet
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
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

_LAYERS = ("expand", "depthwise", "squeeze", "project")


def _torchvision() -> Rows:
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_bn", "batchnorm")]
    # Stage by stage: one row for all of them would name the arrays of an EfficientNet V2 too, and with fewer rows.
    for stage in range(1, 8):
        source, path = f"features.{stage}.{{i}}", f"stage{stage}.{{i}}"
        # The blocks of the first stage expand nothing, so that their layers count one less.
        for place, name in enumerate(_LAYERS[1:] if stage == 1 else _LAYERS):
            if name == "squeeze":
                rows += [(f"{source}.block.{place}.fc1", f"{path}/squeeze/reduce", "pixel")]
                rows += [(f"{source}.block.{place}.fc2", f"{path}/squeeze/expand", "pixel")]
            else:
                rows += [(f"{source}.block.{place}.0", f"{path}/{name}", "conv")]
                rows += [(f"{source}.block.{place}.1", f"{path}/{name}_bn", "batchnorm")]
    return (
        *rows,
        ("features.8.0", "last_conv", "conv"),
        ("features.8.1", "last_bn", "batchnorm"),
        ("classifier.1", "head", "dense"),
    )


_BLOCK, _PATH = "blocks.{s}.{i}.", "stage{s+1}.{i}/"
_TIMM = (
    ("conv_stem", "stem_conv", "conv"),
    ("bn1", "stem_bn", "batchnorm"),
    ("blocks.0.{i}.conv_dw", "stage1.{i}/depthwise", "conv"),
    ("blocks.0.{i}.bn1", "stage1.{i}/depthwise_bn", "batchnorm"),
    ("blocks.0.{i}.conv_pw", "stage1.{i}/project", "conv"),
    ("blocks.0.{i}.bn2", "stage1.{i}/project_bn", "batchnorm"),
    (_BLOCK + "conv_pw", _PATH + "expand", "conv"),
    (_BLOCK + "bn1", _PATH + "expand_bn", "batchnorm"),
    (_BLOCK + "conv_dw", _PATH + "depthwise", "conv"),
    (_BLOCK + "bn2", _PATH + "depthwise_bn", "batchnorm"),
    (_BLOCK + "se.conv_reduce", _PATH + "squeeze/reduce", "pixel"),
    (_BLOCK + "se.conv_expand", _PATH + "squeeze/expand", "pixel"),
    (_BLOCK + "conv_pwl", _PATH + "project", "conv"),
    (_BLOCK + "bn3", _PATH + "project_bn", "batchnorm"),
    ("conv_head", "last_conv", "conv"),
    ("bn2", "last_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)


def keras_rows(depthwise: str, letters: str) -> Rows:
    """Returns Keras' rows, where the blocks of a stage have letters: "block2a_expand_conv".

    Args:
      depthwise: what the depthwise convolution of a block is called, such as "dwconv".
      letters: one for each block of the longest stage.
    """
    rows: list[tuple[str, str, str]] = [("stem_conv", "stem_conv", "conv"), ("stem_bn", "stem_bn", "batchnorm")]
    for i, letter in enumerate(letters):
        source, path = f"block{{s}}{letter}_", f"stage{{s}}.{i}/"
        rows += [
            (source + "expand_conv", path + "expand", "conv"),
            (source + "expand_bn", path + "expand_bn", "batchnorm"),
            (source + depthwise, path + "depthwise", "depthwise"),
            (source + "bn", path + "depthwise_bn", "batchnorm"),
            (source + "se_reduce", path + "squeeze/reduce", "pixel"),
            (source + "se_expand", path + "squeeze/expand", "pixel"),
            (source + "project_conv", path + "project", "conv"),
            (source + "project_bn", path + "project_bn", "batchnorm"),
        ]
    last = (("top_conv", "last_conv", "conv"), ("top_bn", "last_bn", "batchnorm"), ("predictions", "head", "dense"))
    return (*rows, *last)


def _huggingface(depths: tuple[int, ...]) -> Rows:
    """Returns the rows of transformers, which numbers the blocks of all stages in a row."""
    rows: list[tuple[str, str, str]] = [
        ("embeddings.convolution", "stem_conv", "conv"),
        ("embeddings.batchnorm", "stem_bn", "batchnorm"),
        ("encoder.top_conv", "last_conv", "conv"),
        ("encoder.top_bn", "last_bn", "batchnorm"),
        ("classifier", "head", "dense"),
    ]
    places = [(stage, i) for stage, depth in enumerate(depths, start=1) for i in range(depth)]
    for number, (stage, i) in enumerate(places):
        source, path = f"encoder.blocks.{number}", f"stage{stage}.{i}"
        rows += [
            (f"{source}.expansion.expand_conv", f"{path}/expand", "conv"),
            (f"{source}.expansion.expand_bn", f"{path}/expand_bn", "batchnorm"),
            (f"{source}.depthwise_conv.depthwise_conv", f"{path}/depthwise", "conv"),
            (f"{source}.depthwise_conv.depthwise_norm", f"{path}/depthwise_bn", "batchnorm"),
            (f"{source}.squeeze_excite.reduce", f"{path}/squeeze/reduce", "pixel"),
            (f"{source}.squeeze_excite.expand", f"{path}/squeeze/expand", "pixel"),
            (f"{source}.projection.project_conv", f"{path}/project", "conv"),
            (f"{source}.projection.project_bn", f"{path}/project_bn", "batchnorm"),
        ]
    return tuple(rows)


def _of_torchvision(shapes: Mapping[str, tuple[int, ...]]) -> KeyMapping:
    """Gives the convention of a torchvision file: B5 to B7 were trained in TensorFlow and normalise as there."""
    wide = shapes.get("params/stage7.0/project/kernel", (0,))[-1] >= _WIDE
    return _TORCHVISION_WIDE if wide else _TORCHVISION


_WIDE = VARIANTS["efficientnet_b5"]["widths"][-1]
_TORCHVISION = KeyMapping(
    "torchvision",
    "torch",
    _torchvision(),
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
    KeyMapping("timm", "torch", _TIMM, pixels=PixelDefaults(IMAGENET, "bicubic", 0.875), unused=COUNTERS),
    *(
        KeyMapping(
            "huggingface",
            "torch",
            _huggingface(depths),
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
