"""MobileNet V1, https://arxiv.org/abs/1704.04861: each 3 x 3 convolution sees one channel, and a 1 x 1 joins them."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.models.base import Groups, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows, refuse_timm_changes
from jaxtl.models.layers.batchnorm import BatchNorm, norm_fields
from jaxtl.models.layers.inverted_residual import conv
from jaxtl.models.layers.squeeze_excite import ACTIVATIONS
from jaxtl.preprocessing import HALF, PixelDefaults

# Of each block: channels of what it returns, and its stride.
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
# A stage begins with each block at stride 2.
_STAGES = tuple(itertools.accumulate(int(stride == 2) for _, stride in _BLOCKS))
_NAMES = tuple(f"stage{stage + 1}.{i - _STAGES.index(stage)}" for i, stage in enumerate(_STAGES))

PADDINGS: Mapping[str, tuple[str, str]] = {
    "torch": ("centred", "centred"),
    "tf": ("tensorflow", "tensorflow"),
    "keras": ("tensorflow", "shifted"),
}
"""How windows at stride 2 are padded, in the stem and in the blocks, in the words of `inverted_residual.conv`: one
pixel on every side, as TensorFlow does it, or in the blocks one pixel below and at the right, whatever the size."""


class Block(nn.Module):
    """Convolves each channel alone, then mixes them; BatchNorm and ReLU6 follow each.

    Attributes:
      width: channels of what is returned.
      stride: of the first convolution.
      padding: of the same.
      norm: fields of BatchNorm.
    """

    width: int
    stride: int
    padding: str
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, width]."""
        channels, activate = x.shape[-1], ACTIVATIONS["relu6"]
        x = conv(channels, 3, self.stride, groups=channels, padding=self.padding, dtype=self.dtype, name="depthwise")(x)
        x = activate(BatchNorm(**self.norm, name="depthwise_bn")(x, use_running_average=not train))
        x = conv(self.width, 1, dtype=self.dtype, name="pointwise")(x)
        return activate(BatchNorm(**self.norm, name="pointwise_bn")(x, use_running_average=not train))


class MobileNetV1(BatchNormModel):
    """A MobileNet V1 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      widths: channels of each block.
      stem_width: channels of the stem.
      padding: one of `PADDINGS`.
    """

    unseen: ClassVar[tuple[str, ...]] = (*BatchNormModel.unseen, "padding")

    num_classes: int
    widths: tuple[int, ...] = tuple(width for width, _ in _BLOCKS)
    image_size: int = 224
    stem_width: int = 32
    padding: str = "torch"

    def __post_init__(self):
        if self.padding not in PADDINGS:
            raise ValueError(f"padding {self.padding!r} must be one of {', '.join(PADDINGS)}")
        super().__post_init__()

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        blocks = tuple((name, name.replace(".", r"\.")) for name in _NAMES)
        return (("stem", "stem_.*"), *blocks, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/stem_conv/kernel"

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 32 if self.padding == "keras" else 1

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        stem_padding, padding = PADDINGS[self.padding]
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "stem":
            x = conv(self.stem_width, 3, 2, padding=stem_padding, dtype=self.dtype, name="stem_conv")(x)
            x = BatchNorm(**norm_fields(self), name="stem_bn")(x, use_running_average=not train)
            return ACTIVATIONS["relu6"](x)
        number = _NAMES.index(name)
        stride = _BLOCKS[number][1]
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            width=self.widths[number],
            stride=stride,
            padding="centred" if stride == 1 else padding,
            norm=norm_fields(self),
            dtype=self.dtype,
            name=name,
        )(x, train)
        return self.pooled(x) if name == _NAMES[-1] else x


def _sizes(alpha: float) -> dict[str, Any]:
    """Returns the fields of a network whose widths are `alpha` times those of the largest."""
    return {
        "widths": tuple(max(int(alpha * width), 8) for width, _ in _BLOCKS),
        "stem_width": max(int(alpha * 32), 8),
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenet_v1": _sizes(1.0),
    "mobilenet_v1_075": _sizes(0.75),
    "mobilenet_v1_050": _sizes(0.5),
    "mobilenet_v1_025": _sizes(0.25),
}

PUBLISHED = {
    "mobilenet_v1": "hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k",
    "mobilenet_v1_075": "hf:google/mobilenet_v1_0.75_192",
}

MODEL = MobileNetV1
IMAGE_SIZE = 224

ARCHITECTURES = (r"mobilenetv1_(100|125)",)


_TIMM = (
    ("conv_stem", "stem_conv", "conv"),
    ("bn1", "stem_bn", "batchnorm"),
    ("blocks.{s}.{i}.conv_dw", "stage{s+1}.{i}/depthwise", "conv"),
    ("blocks.{s}.{i}.bn1", "stage{s+1}.{i}/depthwise_bn", "batchnorm"),
    ("blocks.{s}.{i}.conv_pw", "stage{s+1}.{i}/pointwise", "conv"),
    ("blocks.{s}.{i}.bn2", "stage{s+1}.{i}/pointwise_bn", "batchnorm"),
    ("classifier", "head", "dense"),
)


def _huggingface() -> Rows:
    rows: list[tuple[str, str, str]] = [
        ("conv_stem.convolution", "stem_conv", "conv"),
        ("conv_stem.normalization", "stem_bn", "batchnorm"),
        ("classifier", "head", "dense"),
    ]
    for number in range(2 * len(_BLOCKS)):
        path = f"{_NAMES[number // 2]}/{('depthwise', 'pointwise')[number % 2]}"
        rows.append((f"layer.{number}.convolution", path, "conv"))
        rows.append((f"layer.{number}.normalization", f"{path}_bn", "batchnorm"))
    return tuple(rows)


def _keras() -> Rows:
    rows: list[tuple[str, str, str]] = [
        ("conv1", "stem_conv", "conv"),
        ("conv1_bn", "stem_bn", "batchnorm"),
        ("conv_preds", "head", "pixel"),
    ]
    for number, name in enumerate(_NAMES, start=1):
        rows.append((f"conv_dw_{number}", f"{name}/depthwise", "depthwise"))
        rows.append((f"conv_dw_{number}_bn", f"{name}/depthwise_bn", "batchnorm"))
        rows.append((f"conv_pw_{number}", f"{name}/pointwise", "conv"))
        rows.append((f"conv_pw_{number}_bn", f"{name}/pointwise_bn", "batchnorm"))
    return tuple(rows)


KEY_MAPPINGS = (
    KeyMapping("timm", "torch", _TIMM, pixels=PixelDefaults(HALF, "bicubic", 0.875), unused=COUNTERS),
    KeyMapping(
        "huggingface",
        "torch",
        _huggingface(),
        prefixes=("mobilenet_v1.", ""),
        # transformers replaces statistics by 0.9997 of those of each batch, TensorFlow kept 0.9997 of the old ones:
        # neither suits a short training.
        fields={"epsilon": 1e-3, "momentum": 0.99},
        pixels=PixelDefaults(HALF, "bilinear", 0.875),
        unused=COUNTERS,
    ),
    KeyMapping(
        "keras",
        "keras",
        _keras(),
        fields={"padding": "keras", "epsilon": 1e-3, "momentum": 0.99, "unbiased": False},
        pixels=PixelDefaults(HALF, "bilinear", 0.875),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    return {
        "widths": tuple(shapes[f"params/{name}/pointwise/kernel"][-1] for name in _NAMES),
        "stem_width": shapes["params/stem_conv/kernel"][-1],
    }


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it has another activation.
    """
    if config.get("model_type") != "mobilenet_v1":
        return None
    if config["hidden_act"] != "relu6":
        raise UserError(f"config.json: a MobileNet V1 with {config['hidden_act']!r} instead of relu6 is not supported.")
    alpha, least = config["depth_multiplier"], config["min_depth"]
    return {
        "widths": tuple(max(int(alpha * width), least) for width, _ in _BLOCKS),
        "stem_width": max(int(alpha * 32), least),
        "padding": "tf" if config["tf_padding"] else "torch",
        "epsilon": config["layer_norm_eps"],
        "momentum": 0.99,
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    refuse_timm_changes(arguments)
    return {}
