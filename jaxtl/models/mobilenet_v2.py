"""MobileNet V2, https://arxiv.org/abs/1801.04381."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import differences, from_timm_efficientnet, to_timm_efficientnet
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.models.layers.squeeze_excite import divisible
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults

# Of each stage: how often the input of its blocks is expanded, and the stride of its first block.
_STAGES = ((1, 1), (6, 2), (6, 2), (6, 2), (6, 1), (6, 2), (6, 1))
_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
_WIDTHS = (16, 24, 32, 64, 96, 160, 320)


class MobileNetV2(InvertedResidualNet):
    """A MobileNet V2 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      depths: the number of blocks in each stage.
      widths: channels of each stage.
    """

    depths: tuple[int, ...] = _DEPTHS
    widths: tuple[int, ...] = _WIDTHS

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, in their order."""
        found, before = {}, self.stem_width
        sizes = zip(_STAGES, self.depths, self.widths, strict=True)
        for stage, ((ratio, stride), depth, width) in enumerate(sizes, start=1):
            for i in range(depth):
                found[f"stage{stage}.{i}"] = BlockSpec(width, ratio * before, 3, stride if i == 0 else 1, 0, "relu6")
                before = width
        return found


VARIANTS: dict[str, dict[str, Any]] = {"mobilenet_v2": {}}

PUBLISHED = {"mobilenet_v2": "hf:timm/mobilenetv2_100.ra_in1k"}

BUILDERS = {"torchvision": {"mobilenet_v2": "mobilenet_v2"}}

MODEL = MobileNetV2
IMAGE_SIZE = 224

# Keras, torchvision, and timm, where the number is the width in hundredths and "d" means deeper.
ARCHITECTURES = (r"mobilenet_?v2", r"mobilenetv2_(035|050|075|100|140|110d|120d)")

_PLACES = [(stage, i) for stage, count in enumerate(_DEPTHS, start=1) for i in range(count)]


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


def _hf_layer(source: str, path: str) -> Rows:
    return ((f"{source}.convolution", path, "conv"), (f"{source}.normalization", f"{path}_bn", "batchnorm"))


_HUGGINGFACE = (
    ("conv_stem.first_conv.convolution", "stem_conv", "conv"),
    ("conv_stem.first_conv.normalization", "stem_bn", "batchnorm"),
    *_hf_layer("conv_stem.conv_3x3", "stage1.0/depthwise"),
    *_hf_layer("conv_stem.reduce_1x1", "stage1.0/project"),
    *(
        row
        for number, (stage, i) in enumerate(_PLACES[1:])
        for source, target in (("expand_1x1", "expand"), ("conv_3x3", "depthwise"), ("reduce_1x1", "project"))
        for row in _hf_layer(f"layer.{number}.{source}", f"stage{stage}.{i}/{target}")
    ),
    ("conv_1x1.convolution", "last_conv", "conv"),
    ("conv_1x1.normalization", "last_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)

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
        "huggingface",
        "torch",
        _HUGGINGFACE,
        prefixes=("mobilenet_v2.", ""),
        # Its code takes the share 0.997 that is kept for the share that is new, and would keep 0.003.
        fields={"epsilon": 1e-3, "momentum": 0.997, "tf_padding": True},
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
        unused=COUNTERS,
    ),
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
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/project/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    return {
        "depths": tuple(counts[stage] for stage in range(1, 8)),
        "widths": tuple(shapes[f"params/stage{stage}.0/project/kernel"][-1] for stage in range(1, 8)),
        "stem_width": shapes["params/stem_conv/kernel"][-1],
        "last_width": shapes["params/last_conv/kernel"][-1],
    }


_USUAL = {
    "expand_ratio": 6,
    "depth_divisible_by": 8,
    "min_depth": 8,
    "output_stride": 32,
    "first_layer_is_expansion": True,
    "hidden_act": "relu6",
}


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is of a MobileNet V2 that differs from the published ones in more than its width.
    """
    if config.get("model_type") != "mobilenet_v2":
        return None
    others = [f"{key} {config[key]}" for key, value in _USUAL.items() if config[key] != value]
    if others:
        raise UserError(f"config.json: a MobileNet V2 with {', '.join(others)} is not supported.")
    return {
        **_sized(config["depth_multiplier"], config["finegrained_output"]),
        "epsilon": config["layer_norm_eps"],
        "momentum": 0.997,
        "tf_padding": config["tf_padding"],
    }


def _sized(width: float, finegrained: bool) -> dict[str, Any]:
    """Returns the sizes of a network so many times as wide; a `finegrained` one keeps its last layer if narrower."""
    return {
        "widths": tuple(divisible(round(width * channels)) for channels in _WIDTHS),
        "stem_width": divisible(round(width * 32)),
        "last_width": 1280 if finegrained and width < 1 else divisible(round(width * 1280)),
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model; see `from_timm_efficientnet`."""
    return from_timm_efficientnet(arguments)


def to_timm(model: MobileNetV2) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such network.
    """
    variants = {f"mobilenetv2_{round(100 * width):03}": _sized(width, True) for width in _PUBLISHED_WIDTHS}
    return to_timm_efficientnet(model, variants)


# How many times as wide those are that others publish.
_PUBLISHED_WIDTHS = (1.0, 0.35, 0.5, 0.75, 1.4)


def to_config(model: MobileNetV2, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its MobileNet V2 cannot express the model."""
    conventions = {"epsilon": model.epsilon, "tf_padding": model.tf_padding}
    for width in _PUBLISHED_WIDTHS:
        if not differences(model, {**_sized(width, True), **conventions}):
            return {
                "model_type": "mobilenet_v2",
                "architectures": ["MobileNetV2ForImageClassification"],
                "num_channels": channels,
                "image_size": model.image_size,
                "depth_multiplier": width,
                "layer_norm_eps": model.epsilon,
                "tf_padding": model.tf_padding,
            }
    return None
