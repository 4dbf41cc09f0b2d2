"""MobileNet V3, large and small, https://arxiv.org/abs/1905.02244."""

from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import from_timm_efficientnet, to_timm_efficientnet
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidualNet
from jaxtl.models.layers.squeeze_excite import divisible
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults

# Of each block: window, channels between, channels, squeeze-excite, hard swish instead of ReLU, stride.
_LARGE = (
    ((3, 16, 16, False, False, 1),),
    ((3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1)),
    ((5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1)),
    (
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
    ),
    ((3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1)),
    ((5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1)),
)
_SMALL = (
    ((3, 16, 16, True, False, 2),),
    ((3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1)),
    ((5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1)),
    ((5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1)),
    ((5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1)),
)


class MobileNetV3(InvertedResidualNet):
    """A MobileNet V3 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      small: whether it is the small one.
    """

    small: bool = False
    stem_width: int = 16
    last_width: int = 960
    hidden: int = 1280
    activation: str = "hard_swish"
    gate: str = "hard_sigmoid"
    epsilon: float = 1e-3
    momentum: float = 0.99

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, in their order."""
        return {
            f"stage{stage}.{i}": BlockSpec(
                width,
                hidden,
                size,
                stride,
                divisible(hidden // 4) if squeeze else 0,
                "hard_swish" if swish else "relu",
            )
            for stage, blocks in enumerate(_SMALL if self.small else _LARGE, start=1)
            for i, (size, hidden, width, squeeze, swish, stride) in enumerate(blocks)
        }


VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenet_v3_large": {},
    "mobilenet_v3_small": {"small": True, "last_width": 576, "hidden": 1024},
}

PUBLISHED = {
    "mobilenet_v3_large": "hf:timm/mobilenetv3_large_100.ra_in1k",
    "mobilenet_v3_small": "hf:timm/mobilenetv3_small_100.lamb_in1k",
}

BUILDERS = {"torchvision": {name: name for name in VARIANTS}}

MODEL = MobileNetV3
IMAGE_SIZE = 224

# timm's other widths, its "rw" and its "minimal" have other blocks or activations.
ARCHITECTURES = (r"mobilenet_?v3_?(large|small)(_100)?", r"tf_mobilenetv3_(large|small)_100")

# What timm took over from TensorFlow.
NAMED_FIELDS = {r"^tf_mobilenetv3_(large|small)_100(?=[-_.]|$)": {"tf_padding": True, "epsilon": 1e-3}}

_EXPANDED = ("expand", "depthwise", "squeeze", "project")


def _torchvision(stages: Any) -> Rows:
    """Returns torchvision's rows, where blocks come one after another, and their layers without gaps."""
    places = [(stage, i) for stage, blocks in enumerate(stages, start=1) for i in range(len(blocks))]
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_bn", "batchnorm")]
    for number, (stage, i) in enumerate(places, start=1):
        path, squeezes = f"stage{stage}.{i}", stages[stage - 1][i][3]
        layers = [name for name in _EXPANDED if (name != "squeeze" or squeezes) and (name != "expand" or number > 1)]
        for place, name in enumerate(layers):
            source = f"features.{number}.block.{place}"
            if name == "squeeze":
                rows += [(f"{source}.fc1", f"{path}/squeeze/reduce", "pixel")]
                rows += [(f"{source}.fc2", f"{path}/squeeze/expand", "pixel")]
            else:
                rows += [(f"{source}.0", f"{path}/{name}", "conv"), (f"{source}.1", f"{path}/{name}_bn", "batchnorm")]
    last = f"features.{len(places) + 1}"
    return (
        *rows,
        (f"{last}.0", "last_conv", "conv"),
        (f"{last}.1", "last_bn", "batchnorm"),
        ("classifier.0", "fc", "dense"),
        ("classifier.3", "head", "dense"),
    )


def _timm(stages: int) -> Rows:
    block, path = "blocks.{s}.{i}.", "stage{s+1}.{i}/"
    return (
        ("conv_stem", "stem_conv", "conv"),
        ("bn1", "stem_bn", "batchnorm"),
        ("blocks.0.0.conv_dw", "stage1.0/depthwise", "conv"),
        ("blocks.0.0.bn1", "stage1.0/depthwise_bn", "batchnorm"),
        ("blocks.0.0.conv_pw", "stage1.0/project", "conv"),
        ("blocks.0.0.bn2", "stage1.0/project_bn", "batchnorm"),
        (f"blocks.{stages}.0.conv", "last_conv", "conv"),
        (f"blocks.{stages}.0.bn1", "last_bn", "batchnorm"),
        (block + "conv_pw", path + "expand", "conv"),
        (block + "bn1", path + "expand_bn", "batchnorm"),
        (block + "conv_dw", path + "depthwise", "conv"),
        (block + "bn2", path + "depthwise_bn", "batchnorm"),
        (block + "se.conv_reduce", path + "squeeze/reduce", "pixel"),
        (block + "se.conv_expand", path + "squeeze/expand", "pixel"),
        (block + "conv_pwl", path + "project", "conv"),
        (block + "bn3", path + "project_bn", "batchnorm"),
        ("conv_head", "fc", "pixel"),
        ("classifier", "head", "dense"),
    )


def _keras(stages: Any, norm: str, squeeze: str, joint: str) -> Rows:
    """Returns Keras' rows, where all blocks but the first are numbered through; its names were others before Keras 3.

    Args:
      stages: the blocks.
      norm: what follows the name of a convolution in that of its normalisation.
      squeeze: the same before the two layers of squeeze-excite.
      joint: between the name of a block and that of its layer.
    """
    old = joint == "/"
    conv, logits = ("Conv", "Logits") if old else ("conv", "logits")
    rows: list[tuple[str, str, str]] = [(conv, "stem_conv", "conv"), (conv + norm, "stem_bn", "batchnorm")]
    places = [(stage, i) for stage, blocks in enumerate(stages, start=1) for i in range(len(blocks))]
    for number, (stage, i) in enumerate(places):
        source, path = (f"expanded_conv_{number}" if number else "expanded_conv") + joint, f"stage{stage}.{i}/"
        for name in ("expand", "depthwise", "project")[number == 0 :]:
            rows.append((source + name, path + name, "depthwise" if name == "depthwise" else "conv"))
            rows.append((source + name + norm, f"{path}{name}_bn", "batchnorm"))
        rows.append((source + squeeze, path + "squeeze/reduce", "pixel"))
        rows.append((f"{source}{squeeze}_1", path + "squeeze/expand", "pixel"))
    return (
        *rows,
        (f"{conv}_1", "last_conv", "conv"),
        (f"{conv}_1{norm}", "last_bn", "batchnorm"),
        (f"{conv}_2", "fc", "pixel"),
        (logits, "head", "pixel"),
    )


_KERAS_NAMES = (("_bn", "squeeze_excite_conv", "_"), ("/BatchNorm", "squeeze_excite/Conv", "/"))

KEY_MAPPINGS = tuple(
    key_mapping
    for stages in (_LARGE, _SMALL)
    for key_mapping in (
        KeyMapping(
            "torchvision",
            "torch",
            _torchvision(stages),
            pixels=PixelDefaults(IMAGENET, "bilinear", 224 / 256),
            unused=COUNTERS,
        ),
        KeyMapping(
            "timm",
            "torch",
            _timm(len(stages)),
            fields={"epsilon": 1e-5, "momentum": 0.9},
            pixels=PixelDefaults(IMAGENET, "bicubic", 0.875),
            unused=COUNTERS,
        ),
        *(
            KeyMapping(
                "keras",
                "keras",
                _keras(stages, *names),
                fields={"tf_padding": True, "momentum": 0.999, "unbiased": False},
                pixels=PixelDefaults(HALF, "bilinear", 0.875),
            )
            for names in _KERAS_NAMES
        ),
    )
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them.

    Raises:
      UserError: there is no squeeze-excite, as in the minimalistic ones, which use other windows and activations too.
    """
    if not any("/squeeze/" in path for path in shapes):
        raise UserError(
            "a minimalistic MobileNet V3 (without squeeze-excite) is not supported; give one of the others."
        )
    return {
        "small": "params/stage6.0/project/kernel" not in shapes,
        "stem_width": shapes["params/stem_conv/kernel"][-1],
        "last_width": shapes["params/last_conv/kernel"][-1],
        # Without its dense layer a head reads the mean over the last maps.
        **({"hidden": shapes[last][-1]} if (last := "params/fc/kernel") in shapes else {"head_pool": "avg"}),
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model; see `from_timm_efficientnet`."""
    return from_timm_efficientnet(arguments)


def to_timm(model: MobileNetV3) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such network.
    """
    variants = {f"{name.replace('_v3', 'v3')}_100": fields for name, fields in VARIANTS.items()}
    return to_timm_efficientnet(model, variants)
