"""EfficientNet V2, https://arxiv.org/abs/2104.00298: its early blocks convolve all channels at once."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import from_timm_efficientnet, to_timm_efficientnet
from jaxtl.models.efficientnet_rows import keras_rows
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults

# Of each stage: how much it expands, and the stride of its first block. The first three are fused, the others weigh
# their channels; the small one lacks the last.
_STAGES = ((1, 1), (4, 2), (4, 2), (4, 2), (6, 1), (6, 2), (6, 1))
_FUSED = 3


class EfficientNetV2(InvertedResidualNet):
    """An EfficientNet V2 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      depths: the number of blocks in each stage.
      widths: channels of each stage; the stem has those of the first.
    """

    depths: tuple[int, ...] = (2, 4, 4, 6, 9, 15)
    widths: tuple[int, ...] = (24, 48, 64, 128, 160, 256)
    image_size: int = 384
    stem_width: int = 24
    activation: str = "swish"
    squeeze_activation: str = "swish"
    epsilon: float = 1e-3

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, in their order."""
        found, before = {}, self.stem_width
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            ratio, stride = _STAGES[stage - 1]
            for i in range(depth):
                fused = stage <= _FUSED
                found[f"stage{stage}.{i}"] = BlockSpec(
                    width=width,
                    hidden=ratio * before,
                    size=3,
                    stride=stride if i == 0 else 1,
                    squeeze=0 if fused else before // 4,
                    activation="swish",
                    fused=fused,
                )
                before = width
        return found


VARIANTS: dict[str, dict[str, Any]] = {
    "efficientnet_v2_s": {},
    "efficientnet_v2_m": {
        "depths": (3, 5, 5, 7, 14, 18, 5),
        "widths": (24, 48, 80, 160, 176, 304, 512),
        "image_size": 480,
    },
    "efficientnet_v2_l": {
        "depths": (4, 7, 7, 10, 19, 25, 7),
        "widths": (32, 64, 96, 192, 224, 384, 640),
        "stem_width": 32,
        "image_size": 480,
    },
}

_URL = "https://download.pytorch.org/models/efficientnet_v2_"
PUBLISHED = {
    "efficientnet_v2_s": f"{_URL}s-dd5fe13b.pth",
    "efficientnet_v2_m": f"{_URL}m-dc08266a.pth",
    "efficientnet_v2_l": f"{_URL}l-59c71312.pth",
}

BUILDERS = {"torchvision": {name: name for name in VARIANTS}}

MODEL = EfficientNetV2
IMAGE_SIZE = 384

# timm's "rw" are of other proportions, its "b0" to "b3" of other stages.
ARCHITECTURES = (r"efficientnet_v2_[sml]", r"(tf_)?efficientnetv2_[sml]")

# What timm took over from TensorFlow.
NAMED_FIELDS = {r"^tf_efficientnetv2_[sml](?=[-_.]|$)": {"tf_padding": True, "epsilon": 1e-3}}


def _torchvision(stages: int) -> Rows:
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_bn", "batchnorm")]
    for stage in range(1, stages + 1):
        block, path = f"features.{stage}.{{i}}.block.", f"stage{stage}.{{i}}/"
        layers = ["expand", "depthwise", "squeeze", "project"]
        if stage <= _FUSED:
            layers = ["project"] if stage == 1 else ["expand", "project"]
        for place, name in enumerate(layers):
            if name == "squeeze":
                rows += [(f"{block}{place}.fc1", f"{path}squeeze/reduce", "pixel")]
                rows += [(f"{block}{place}.fc2", f"{path}squeeze/expand", "pixel")]
            else:
                rows += [(f"{block}{place}.0", f"{path}{name}", "conv")]
                rows += [(f"{block}{place}.1", f"{path}{name}_bn", "batchnorm")]
    last = f"features.{stages + 1}"
    return (
        *rows,
        (f"{last}.0", "last_conv", "conv"),
        (f"{last}.1", "last_bn", "batchnorm"),
        ("classifier.1", "head", "dense"),
    )


def _timm_stage(stage: int) -> Rows:
    block, path = f"blocks.{stage - 1}.{{i}}.", f"stage{stage}.{{i}}/"
    if stage == 1:
        layers: tuple[tuple[str, str], ...] = (("conv", "project"),)
    elif stage <= _FUSED:
        layers = (("conv_exp", "expand"), ("conv_pwl", "project"))
    else:
        layers = (("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project"))
    convs = tuple((block + name, path + target, "conv") for name, target in layers)
    norms = tuple((f"{block}bn{k}", f"{path}{name}_bn", "batchnorm") for k, (_, name) in enumerate(layers, start=1))
    squeeze = (
        (block + "se.conv_reduce", path + "squeeze/reduce", "pixel"),
        (block + "se.conv_expand", path + "squeeze/expand", "pixel"),
    )
    return (*convs, *norms, *(squeeze if stage > _FUSED else ()))


_TIMM = (
    ("conv_stem", "stem_conv", "conv"),
    ("bn1", "stem_bn", "batchnorm"),
    *(row for stage in range(1, 8) for row in _timm_stage(stage)),
    ("conv_head", "last_conv", "conv"),
    ("bn2", "last_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)


def _of_torchvision(shapes: Mapping[str, tuple[int, ...]]) -> KeyMapping:
    """Gives the convention of a torchvision file: the large one was trained on pixels from -1 to 1."""
    large = shapes.get("params/stem_conv/kernel", (0,))[-1] == VARIANTS["efficientnet_v2_l"]["stem_width"]
    return _TORCHVISION_LARGE if large else _TORCHVISION


# At the full size, as torchvision shows the images.
_TORCHVISION_SMALL = KeyMapping(
    "torchvision", "torch", _torchvision(6), pixels=PixelDefaults(IMAGENET, "bilinear", 1.0), unused=COUNTERS
)
_TORCHVISION = KeyMapping(
    "torchvision",
    "torch",
    _torchvision(7),
    pixels=PixelDefaults(IMAGENET, "bilinear", 1.0),
    unused=COUNTERS,
    refine=_of_torchvision,
)
_TORCHVISION_LARGE = replace(_TORCHVISION, pixels=PixelDefaults(HALF, "bicubic", 1.0), refine=None)


def _of_keras(shapes: Mapping[str, tuple[int, ...]]) -> KeyMapping:
    """Gives the convention of a Keras file.

    Raises:
      UserError: the stem is wider than the first stage, as in B0 to B3, which normalise pixels otherwise.
    """
    stem, stage = (shapes.get(f"params/{path}/kernel", (0,))[-1] for path in ("stem_conv", "stage1.0/project"))
    if stem > stage > 0:
        raise UserError(
            f"an EfficientNetV2 B0 to B3 of Keras (a stem of {stem} channels before a stage of {stage}) is not "
            "supported; give EfficientNetV2S, M or L."
        )
    return _KERAS


# It computes x / 128 - 1 of pixels from 0 to 255: not quite up to 1.
_KERAS_STATISTICS = ((128 / 255,) * 3, (128 / 255,) * 3)
_KERAS = KeyMapping(
    "keras",
    "keras",
    keras_rows("dwconv2", "abcdefghijklmnopqrstuvwxy"),
    fields={"tf_padding": True, "epsilon": 1e-3, "momentum": 0.9, "unbiased": False},
    pixels=PixelDefaults(_KERAS_STATISTICS, "bicubic", 1.0),
    refine=_of_keras,
)

KEY_MAPPINGS = (
    _TORCHVISION_SMALL,
    _TORCHVISION,
    KeyMapping(
        "timm",
        "torch",
        _TIMM,
        fields={"epsilon": 1e-5},
        pixels=PixelDefaults(IMAGENET, "bicubic", 1.0),
        unused=COUNTERS,
    ),
    _KERAS,
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/project/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    if shapes["params/stage1.0/project/kernel"][:2] != (3, 3):
        raise ValueError("no EfficientNet V2")
    return {
        "depths": tuple(counts[stage] for stage in sorted(counts)),
        "widths": tuple(shapes[f"params/stage{stage}.0/project/kernel"][-1] for stage in sorted(counts)),
        "stem_width": shapes["params/stem_conv/kernel"][-1],
        "last_width": shapes["params/last_conv/kernel"][-1],
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model; see `from_timm_efficientnet`."""
    return from_timm_efficientnet(arguments)


def to_timm(model: EfficientNetV2) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such network.
    """
    return to_timm_efficientnet(model, {name.replace("_v2", "v2"): fields for name, fields in VARIANTS.items()})
