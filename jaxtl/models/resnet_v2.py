"""ResNet v2 with pre-activation, https://arxiv.org/abs/1603.05027: Keras' and BiT, https://arxiv.org/abs/1912.11370."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.key_mapping import KeyMapping, refuse_timm_changes
from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.conv import max_pool
from jaxtl.models.layers.residual_block import conv
from jaxtl.models.layers.standardized_conv import StandardizedConv
from jaxtl.models.resnet import count_blocks
from jaxtl.preprocessing import HALF, PixelDefaults, Processor


@dataclass(frozen=True)
class Layers:
    """What the normalisations and convolutions of a network are made of; see `ResNetV2`."""

    keras: bool
    norm_groups: int
    epsilon: float
    kernel_epsilon: float
    axis_name: str | None
    dtype: Any

    def norm(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        """Normalises and activates."""
        if self.keras:
            options = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype, "name": name}
            return BatchNorm(**options, momentum=0.99, unbiased=False, relu=True)(x, use_running_average=not train)
        return nn.relu(nn.GroupNorm(self.norm_groups, epsilon=self.epsilon, dtype=self.dtype, name=name)(x))

    def conv(self, x: jax.Array, features: int, size: int, stride: int, name: str) -> jax.Array:
        """Convolves, padded by size // 2 on every side."""
        if self.keras:
            # Where a normalisation follows at once, Keras has no bias.
            bias = name not in ("conv1", "conv2") or size == 7
            return conv(features, size, stride, bias=bias, dtype=self.dtype, name=name)(x)
        return StandardizedConv(features, size, stride, size // 2, self.kernel_epsilon, dtype=self.dtype, name=name)(x)


class Block(nn.Module):
    """A bottleneck whose normalisations and activations come before its convolutions."""

    features: int
    stride: int
    project: bool
    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, 4 * features]."""
        layers = self.layers
        y = layers.norm(x, train, "norm1")
        # A stride without a projection takes every second pixel: Keras' max pooling of size 1.
        shortcut = x[:, :: self.stride, :: self.stride]
        if self.project:
            shortcut = layers.conv(y, 4 * self.features, 1, self.stride, "downsample")
        y = layers.norm(layers.conv(y, self.features, 1, 1, "conv1"), train, "norm2")
        y = layers.norm(layers.conv(y, self.features, 3, self.stride, "conv2"), train, "norm3")
        y = layers.conv(y, 4 * self.features, 1, 1, "conv3")
        x = shortcut + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)
        return x


class ResNetV2(GroupedModel):
    """A pre-activation ResNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      stages: the number of residual blocks in each stage.
      width: channels of the first stage's 3 x 3 convolutions; each stage doubles them.
      keras: batch normalisation, plain convolutions, and the stride in the last block of a stage, as in Keras;
        otherwise group normalisation, weight standardisation and the stride in the first block, as in BiT.
      norm_groups: the number of groups of the group normalisation.
      kernel_epsilon: added to the variance of a kernel, where kernels are standardised.
      axis_name: the mapped axis over which batch statistics are taken, under pmap.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "norm_groups", "kernel_epsilon")

    num_classes: int
    stages: tuple[int, ...]
    image_size: int = 224
    width: int = 64
    keras: bool = False
    norm_groups: int = 32
    epsilon: float = 1e-5
    kernel_epsilon: float = 1e-10
    dropout: float = 0.0
    drop_path: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head; the final norm goes with the last block."""
        names = [f"layer{stage + 1}.{i}" for stage, count in enumerate(self.stages) for i in range(count)]
        blocks = [(name, name.replace(".", r"\.")) for name in names]
        blocks[-1] = (names[-1], f"{blocks[-1][1]}|norm")
        return (("stem", "conv1"), *blocks, ("head", "head"))

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "stem":
            x = self._layers().conv(x, self.width, 7, 2, "conv1")
            # Padded with zeros, not with -inf: nothing is activated before this pooling.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return max_pool(x, ((0, 0), (0, 0)), train)
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        return self._block(x, name, train)

    def _layers(self) -> Layers:
        return Layers(self.keras, self.norm_groups, self.epsilon, self.kernel_epsilon, self.axis_name, self.dtype)

    def _block(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        stage, index = (int(part) for part in name.removeprefix("layer").split("."))
        count = self.stages[stage - 1]
        before, total = sum(self.stages[: stage - 1]) + index, sum(self.stages)
        # Keras halves the map at the end of a stage, BiT at the start of the next one.
        strided = index == count - 1 and stage < len(self.stages) if self.keras else index == 0 and stage > 1
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            features=self.width * 2 ** (stage - 1),
            stride=2 if strided else 1,
            project=index == 0,
            layers=self._layers(),
            drop_path=self.drop_path * before / max(total - 1, 1),
            name=name,
        )(x, train)
        return self.pooled(self._layers().norm(x, train, "norm")) if before == total - 1 else x


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
