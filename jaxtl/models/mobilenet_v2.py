"""MobileNet V2, https://arxiv.org/abs/1801.04381."""

from collections.abc import Mapping
from typing import Any

from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults

# Of each stage: how often its first block's input is expanded, its blocks, and the stride of its first block.
_STAGES = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))


class MobileNetV2(InvertedResidualNet):
    """A MobileNet V2 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      widths: channels of each stage.
    """

    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, in their order."""
        found, before = {}, self.stem_width
        for stage, ((ratio, count, stride), width) in enumerate(zip(_STAGES, self.widths, strict=True), start=1):
            for i in range(count):
                found[f"stage{stage}.{i}"] = BlockSpec(width, ratio * before, 3, stride if i == 0 else 1, 0, "relu6")
                before = width
        return found


VARIANTS: dict[str, dict[str, Any]] = {"mobilenet_v2": {}}

PUBLISHED = {"mobilenet_v2": "hf:timm/mobilenetv2_100.ra_in1k"}

MODEL = MobileNetV2
IMAGE_SIZE = 224

ARCHITECTURES = (r"mobilenet_?v2(_100)?",)

_PLACES = [(stage, i) for stage, (_, count, _) in enumerate(_STAGES, start=1) for i in range(count)]


def _block(source: str, names: tuple[str, ...], path: str) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of one block, whose convolutions and norms come by turns."""
    ours = ("expand", "depthwise", "project")[-len(names) // 2 :]
    kinds = [(f"{name}{suffix}", kind) for name in ours for suffix, kind in (("", "conv"), ("_bn", "batchnorm"))]
    return tuple(
        (f"{source}.{name}", f"{path}/{target}", kind) for name, (target, kind) in zip(names, kinds, strict=True)
    )


_TORCHVISION = (
    ("features.0.0", "stem_conv", "conv"),
    ("features.0.1", "stem_bn", "batchnorm"),
    *_block("features.1.conv", ("0.0", "0.1", "1", "2"), "stage1.0"),
    *(
        row
        for number, (stage, i) in enumerate(_PLACES[1:], start=2)
        for row in _block(f"features.{number}.conv", ("0.0", "0.1", "1.0", "1.1", "2", "3"), f"stage{stage}.{i}")
    ),
    ("features.18.0", "last_conv", "conv"),
    ("features.18.1", "last_bn", "batchnorm"),
    ("classifier.1", "head", "dense"),
)
_TIMM = (
    ("conv_stem", "stem_conv", "conv"),
    ("bn1", "stem_bn", "batchnorm"),
    *_block("blocks.0.0", ("conv_dw", "bn1", "conv_pw", "bn2"), "stage1.0"),
    *_block("blocks.{s}.{i}", ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"), "stage{s+1}.{i}"),
    ("conv_head", "last_conv", "conv"),
    ("bn2", "last_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)


def _keras() -> Rows:
    """Returns Keras' rows, where all blocks but the first are numbered through."""
    rows: list[tuple[str, str, str]] = [("Conv1", "stem_conv", "conv"), ("bn_Conv1", "stem_bn", "batchnorm")]
    for number, (stage, i) in enumerate(_PLACES):
        source, path = f"block_{number}_" if number else "expanded_conv_", f"stage{stage}.{i}/"
        for name in ("expand", "depthwise", "project")[number == 0 :]:
            rows.append((source + name, path + name, "depthwise" if name == "depthwise" else "conv"))
            rows.append((f"{source}{name}_BN", f"{path}{name}_bn", "batchnorm"))
    last = (("Conv_1", "last_conv", "conv"), ("Conv_1_bn", "last_bn", "batchnorm"), ("predictions", "head", "dense"))
    return (*rows, *last)


KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        _TORCHVISION,
        pixels=PixelDefaults(IMAGENET, "bilinear", 224 / 256),
        unused=COUNTERS,
    ),
    KeyMapping("timm", "torch", _TIMM, pixels=PixelDefaults(IMAGENET, "bicubic", 0.875), unused=COUNTERS),
    KeyMapping(
        "keras",
        "keras",
        _keras(),
        # Its padding before a window at stride 2 is TensorFlow's for images of the size that the model was built for.
        fields={"tf_padding": True, "epsilon": 1e-3, "momentum": 0.999, "unbiased": False},
        pixels=PixelDefaults(HALF, "bilinear", 0.875),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    widths = tuple(shapes[f"params/stage{stage}.0/project/kernel"][-1] for stage in range(1, 8))
    return {
        "widths": widths,
        "stem_width": shapes["params/stem_conv/kernel"][-1],
        "last_width": shapes["params/last_conv/kernel"][-1],
    }
