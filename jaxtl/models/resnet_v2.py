"""ResNet v2, https://arxiv.org/abs/1603.05027, Keras' and BiT, https://arxiv.org/abs/1912.11370: variants and names."""

from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.key_mapping import KeyMapping, refuse_timm_changes
from jaxtl.models.resnet import count_blocks
from jaxtl.models.resnet_v2_network import ResNetV2
from jaxtl.preprocessing import HALF, PixelDefaults, Processor

VARIANTS: dict[str, dict[str, Any]] = {
    "bit_r50x1": {"stages": (3, 4, 6, 3)},
    "bit_r50x3": {"stages": (3, 4, 6, 3), "width": 192},
    "bit_r101x1": {"stages": (3, 4, 23, 3)},
    "bit_r101x3": {"stages": (3, 4, 23, 3), "width": 192},
    "bit_r152x2": {"stages": (3, 8, 36, 3), "width": 128},
    "bit_r152x4": {"stages": (3, 8, 36, 3), "width": 256},
    "resnet50v2": {"stages": (3, 4, 6, 3), "keras": True, "epsilon": 1.001e-5},
    "resnet101v2": {"stages": (3, 4, 23, 3), "keras": True, "epsilon": 1.001e-5},
    "resnet152v2": {"stages": (3, 8, 36, 3), "keras": True, "epsilon": 1.001e-5},
}

PUBLISHED = {"bit_r50x1": "hf:google/bit-50"}

MODEL = ResNetV2
IMAGE_SIZE = 224

ARCHITECTURES = (
    r"resnet(50|101|152)v2",  # Keras
    r"resnetv2_(50x[13]|101x[13]|152x[24])_bit",  # timm
)

PROCESSOR = Processor("Bit", interpolation="bicubic")

_UNIT = "resnet/block{s}/unit{b+1}/"
_GOOGLE = (
    ("resnet/root_block/standardized_conv2d", "conv1", "conv"),
    (_UNIT + "a/group_norm", "layer{s}.{b}/norm1", "groupnorm"),
    (_UNIT + "a/standardized_conv2d", "layer{s}.{b}/conv1", "conv"),
    (_UNIT + "b/group_norm", "layer{s}.{b}/norm2", "groupnorm"),
    (_UNIT + "b/standardized_conv2d", "layer{s}.{b}/conv2", "conv"),
    (_UNIT + "c/group_norm", "layer{s}.{b}/norm3", "groupnorm"),
    (_UNIT + "c/standardized_conv2d", "layer{s}.{b}/conv3", "conv"),
    (_UNIT + "a/proj/standardized_conv2d", "layer{s}.{b}/downsample", "conv"),
    ("resnet/group_norm", "norm", "groupnorm"),
    ("resnet/head/conv2d", "head", "merge"),
)

_LAYER = "encoder.stages.{s}.layers.{b}."
_HUGGINGFACE = (
    ("embedder.convolution", "conv1", "conv"),
    (_LAYER + "norm{k}", "layer{s+1}.{b}/norm{k}", "norm"),
    (_LAYER + "conv{k}", "layer{s+1}.{b}/conv{k}", "conv"),
    (_LAYER + "downsample.conv", "layer{s+1}.{b}/downsample", "conv"),
    ("norm", "norm", "norm"),
    ("classifier.1", "head", "dense"),
)

_BLOCK = "stages.{s}.blocks.{b}."
_TIMM = (
    ("stem.conv", "conv1", "conv"),
    (_BLOCK + "norm{k}", "layer{s+1}.{b}/norm{k}", "norm"),
    (_BLOCK + "conv{k}", "layer{s+1}.{b}/conv{k}", "conv"),
    (_BLOCK + "downsample.conv", "layer{s+1}.{b}/downsample", "conv"),
    ("norm", "norm", "norm"),
    ("head.fc", "head", "pixel"),
)

_KERAS_BLOCK = "conv{s+1}_block{b+1}_"
_KERAS = (
    ("conv1_conv", "conv1", "conv"),
    (_KERAS_BLOCK + "preact_bn", "layer{s}.{b}/norm1", "batchnorm"),
    (_KERAS_BLOCK + "0_conv", "layer{s}.{b}/downsample", "conv"),
    (_KERAS_BLOCK + "{k}_bn", "layer{s}.{b}/norm{k+1}", "batchnorm"),
    (_KERAS_BLOCK + "{k}_conv", "layer{s}.{b}/conv{k}", "conv"),
    ("post_bn", "norm", "batchnorm"),
    ("predictions", "head", "dense"),
)

KEY_MAPPINGS = (
    KeyMapping("google", "flax", _GOOGLE, pixels=PixelDefaults(HALF, "bilinear", 224 / 256)),
    KeyMapping(
        "huggingface",
        "torch",
        _HUGGINGFACE,
        prefixes=("bit.", ""),
        fields={"kernel_epsilon": 1e-8},
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
    ),
    KeyMapping(
        "timm", "torch", _TIMM, fields={"kernel_epsilon": 1e-8}, pixels=PixelDefaults(HALF, "bilinear", 224 / 256)
    ),
    KeyMapping(
        "keras",
        "keras",
        _KERAS,
        fields={"keras": True, "epsilon": 1.001e-5},
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    return {"stages": count_blocks(shapes), "width": shapes["params/conv1/kernel"][-1]}


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is not laid out as the published BiT models.
    """
    if config.get("model_type") != "bit":
        return None
    wanted = {
        "layer_type": "preactivation",
        "global_padding": None,
        "embedding_dynamic_padding": False,
        "output_stride": 32,
    }
    others = [f"{key} {config[key]!r}" for key, value in wanted.items() if config[key] != value]
    sizes = [config["embedding_size"] * 4 * 2**stage for stage in range(len(config["depths"]))]
    if [size * config["width_factor"] for size in config["hidden_sizes"]] != sizes:
        others.append(f"hidden_sizes {config['hidden_sizes']} x {config['width_factor']} (not {sizes})")
    if others:
        raise UserError(f"config.json: a BiT with {', '.join(others)} is not supported.")
    return {
        "stages": tuple(config["depths"]),
        "width": config["embedding_size"],
        "norm_groups": config["num_groups"],
        "kernel_epsilon": 1e-8,
    }


def to_config(model: ResNetV2, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its BiT cannot express the model.

    It adds 1e-8 to the variance of a kernel, whatever the model has; next to that of a trained kernel it is nothing.
    """
    if model.keras or model.epsilon != 1e-5:
        return None
    return {
        "model_type": "bit",
        "architectures": ["BitForImageClassification"],
        "num_channels": channels,
        "embedding_size": model.width,
        "hidden_sizes": [model.width * 4 * 2**stage for stage in range(len(model.stages))],
        "depths": list(model.stages),
        "layer_type": "preactivation",
        "hidden_act": "relu",
        "num_groups": model.norm_groups,
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    refuse_timm_changes(arguments)
    return {}


def to_timm(model: ResNetV2) -> tuple[str, dict[str, Any]] | None:
    """Writes the architecture and the arguments by which timm's create_model makes the model; None for Keras' kind.

    Of `kernel_epsilon` holds what `to_config` says.

    Raises:
      UserError: timm has no BiT of these sizes.
    """
    if model.keras:
        return None
    for name, fields in VARIANTS.items():
        own = (fields["stages"], fields.get("width", 64), fields.get("keras", False), 32, 1e-5)
        if own == (model.stages, model.width, model.keras, model.norm_groups, model.epsilon):
            return f"resnetv2_{name.removeprefix('bit_r')}_bit", {}
    own_names = ", ".join(name for name in VARIANTS if name.startswith("bit_"))
    raise UserError(f"timm has no such BiT: its own are {own_names}.")
