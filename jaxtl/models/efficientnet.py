"""EfficientNet, https://arxiv.org/abs/1905.11946."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.models.layers.squeeze_excite import divisible
from jaxtl.preprocessing import IMAGENET, PixelDefaults

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
        "last_width": 4 * divisible(width * 320),
        "image_size": image_size,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": _sizes(1.0, 1.0, 224),
    "efficientnet_b1": _sizes(1.0, 1.1, 240),
    "efficientnet_b2": _sizes(1.1, 1.2, 260),
    "efficientnet_b3": _sizes(1.2, 1.4, 300),
    "efficientnet_b4": _sizes(1.4, 1.8, 380),
}

PUBLISHED = {
    "efficientnet_b0": "hf:timm/efficientnet_b0.ra_in1k",
    "efficientnet_b1": "hf:timm/efficientnet_b1.ft_in1k",
    "efficientnet_b2": "hf:timm/efficientnet_b2.ra_in1k",
    "efficientnet_b3": "hf:timm/efficientnet_b3.ra2_in1k",
    "efficientnet_b4": "hf:timm/efficientnet_b4.ra2_in1k",
}

MODEL = EfficientNet
IMAGE_SIZE = 224

# torchvision's B5 to B7 normalise with another epsilon, which leaves no trace in their files.
ARCHITECTURES = (r"efficientnet_b[0-4]",)

_LAYERS = ("expand", "depthwise", "squeeze", "project")


def _torchvision() -> Rows:
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_bn", "batchnorm")]
    # The blocks of the first stage expand nothing, so that their layers count one less.
    for source, path, layers in (
        ("features.1.{i}", "stage1.{i}", _LAYERS[1:]),
        ("features.{s}.{i}", "stage{s}.{i}", _LAYERS),
    ):
        for place, name in enumerate(layers):
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


def _keras() -> Rows:
    """Returns Keras' rows, where the blocks of a stage have letters."""
    rows: list[tuple[str, str, str]] = [("stem_conv", "stem_conv", "conv"), ("stem_bn", "stem_bn", "batchnorm")]
    for i, letter in enumerate("abcdefghijklm"):
        source, path = f"block{{s}}{letter}_", f"stage{{s}}.{i}/"
        rows += [
            (source + "expand_conv", path + "expand", "conv"),
            (source + "expand_bn", path + "expand_bn", "batchnorm"),
            (source + "dwconv", path + "depthwise", "depthwise"),
            (source + "bn", path + "depthwise_bn", "batchnorm"),
            (source + "se_reduce", path + "squeeze/reduce", "pixel"),
            (source + "se_expand", path + "squeeze/expand", "pixel"),
            (source + "project_conv", path + "project", "conv"),
            (source + "project_bn", path + "project_bn", "batchnorm"),
        ]
    last = (("top_conv", "last_conv", "conv"), ("top_bn", "last_bn", "batchnorm"), ("predictions", "head", "dense"))
    return (*rows, *last)


KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        _torchvision(),
        pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
        unused=COUNTERS,
    ),
    KeyMapping("timm", "torch", _TIMM, pixels=PixelDefaults(IMAGENET, "bicubic", 0.875), unused=COUNTERS),
    KeyMapping(
        "keras",
        "keras",
        _keras(),
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
