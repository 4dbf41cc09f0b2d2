"""DenseNet, https://arxiv.org/abs/1608.06993: each layer adds a few maps to all that came before it in its block."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import Groups, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, refuse_timm_changes
from jaxtl.models.layers.batchnorm import BatchNorm, norm_fields
from jaxtl.models.layers.conv import max_pool
from jaxtl.models.layers.residual_block import conv
from jaxtl.preprocessing import IMAGENET, PixelDefaults


class DenseLayer(nn.Module):
    """BatchNorm, a 1 x 1 convolution, BatchNorm, and a 3 x 3 convolution whose maps follow those of the input."""

    growth: int
    bottleneck: int
    norm: Mapping[str, Any]
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C + growth]."""
        y = BatchNorm(**self.norm, relu=True, name="bn1")(x, use_running_average=not train)
        y = conv(self.bottleneck, 1, dtype=self.dtype, name="conv1")(y)
        y = BatchNorm(**self.norm, relu=True, name="bn2")(y, use_running_average=not train)
        y = conv(self.growth, 3, dtype=self.dtype, name="conv2")(y)
        y = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)
        return jnp.concatenate([x, y.astype(x.dtype)], axis=-1)


class DenseNet(BatchNormModel):
    """A DenseNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      layers: the number of layers in each block.
      width: channels of the stem.
      growth: how many maps each layer adds.
      bottleneck: channels between its two convolutions.
      remat: whether training computes each layer a second time instead of keeping what lies within it.
    """

    num_classes: int
    layers: tuple[int, ...]
    image_size: int = 224
    width: int = 64
    growth: int = 32
    bottleneck: int = 128
    drop_path: float = 0.0

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, the layers of each block and what follows it, the head."""
        table: list[tuple[str, str]] = [("stem", "stem_.*")]
        for block, count in enumerate(self.layers, start=1):
            table += [(f"block{block}.{i}", rf"block{block}\.{i}") for i in range(count)]
            last = block == len(self.layers)
            table.append(("norm", "norm") if last else (f"transition{block}", f"transition{block}_.*"))
        return (*table, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/stem_conv/kernel"

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 4 * (2 ** (len(self.layers) - 1) - 1) + 1

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; all but the last two return maps [B, h, w, c], the last norm pooled features [B, D]."""
        norm = norm_fields(self)
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "stem":
            x = conv(self.width, 7, 2, dtype=self.dtype, name="stem_conv")(x)
            x = BatchNorm(**norm, relu=True, name="stem_bn")(x, use_running_average=not train)
            return max_pool(x, ((1, 1), (1, 1)), train)
        if name == "norm":
            x = BatchNorm(**norm, relu=True, name="norm")(x, use_running_average=not train)
            return self.pooled(x)
        if name.startswith("transition"):
            x = BatchNorm(**norm, relu=True, name=f"{name}_bn")(x, use_running_average=not train)
            x = conv(x.shape[-1] // 2, 1, dtype=self.dtype, name=f"{name}_conv")(x)
            return nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        block, index = (int(part) for part in name.removeprefix("block").split("."))
        before = sum(self.layers[: block - 1]) + index
        return (nn.remat(DenseLayer, static_argnums=2) if self.remat else DenseLayer)(
            growth=self.growth,
            bottleneck=self.bottleneck,
            norm=norm,
            drop_path=self.drop_path * before / max(sum(self.layers) - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)


VARIANTS: dict[str, dict[str, Any]] = {
    "densenet121": {"layers": (6, 12, 24, 16)},
    "densenet161": {"layers": (6, 12, 36, 24), "width": 96, "growth": 48, "bottleneck": 192},
    "densenet169": {"layers": (6, 12, 32, 32)},
    "densenet201": {"layers": (6, 12, 48, 32)},
}

PUBLISHED = {name: f"hf:timm/{name}.tv_in1k" for name in VARIANTS} | {"densenet121": "hf:timm/densenet121.ra_in1k"}

BUILDERS = {package: {name: name for name in VARIANTS} for package in ("torchvision", "timm")}

MODEL = DenseNet
IMAGE_SIZE = 224

ARCHITECTURES = (r"densenet(121|161|169|201)",)

_LAYER = "features.denseblock{s}.denselayer{i+1}."
_STEM = (("features.conv0", "stem_conv", "conv"), ("features.norm0", "stem_bn", "batchnorm"))
_REST = (
    ("features.transition{s}.norm", "transition{s}_bn", "batchnorm"),
    ("features.transition{s}.conv", "transition{s}_conv", "conv"),
    ("features.norm5", "norm", "batchnorm"),
    ("classifier", "head", "dense"),
)
_TORCHVISION = (
    *_STEM,
    (_LAYER + "norm{k}", "block{s}.{i}/bn{k}", "batchnorm"),
    (_LAYER + "conv{k}", "block{s}.{i}/conv{k}", "conv"),
    *_REST,
)
# As the files of torchvision still are, which it renames when it reads them.
_TORCHVISION_FILES = (
    *_STEM,
    (_LAYER + "norm.{k}", "block{s}.{i}/bn{k}", "batchnorm"),
    (_LAYER + "conv.{k}", "block{s}.{i}/conv{k}", "conv"),
    *_REST,
)
_KERAS = (
    ("conv1_conv", "stem_conv", "conv"),
    ("conv1_bn", "stem_bn", "batchnorm"),
    ("conv{s+1}_block{i+1}_{k-1}_bn", "block{s}.{i}/bn{k}", "batchnorm"),
    ("conv{s+1}_block{i+1}_{k}_conv", "block{s}.{i}/conv{k}", "conv"),
    ("pool{s+1}_bn", "transition{s}_bn", "batchnorm"),
    ("pool{s+1}_conv", "transition{s}_conv", "conv"),
    ("bn", "norm", "batchnorm"),
    ("predictions", "head", "dense"),
)

_PIXELS = PixelDefaults(IMAGENET, "bilinear", 224 / 256)

KEY_MAPPINGS = (
    KeyMapping("torchvision", "torch", _TORCHVISION, pixels=_PIXELS, unused=COUNTERS),
    KeyMapping("torchvision", "torch", _TORCHVISION_FILES, pixels=_PIXELS, unused=COUNTERS),
    KeyMapping(
        "keras",
        "keras",
        _KERAS,
        fields={"epsilon": 1.001e-5, "momentum": 0.99, "unbiased": False},
        pixels=PixelDefaults(IMAGENET, "bilinear", 224 / 256),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    found = (re.fullmatch(r"params/block(\d+)\.\d+/conv1/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    return {
        "layers": tuple(counts[block] for block in sorted(counts)),
        "width": shapes["params/stem_conv/kernel"][-1],
        "growth": shapes["params/block1.0/conv2/kernel"][-1],
        "bottleneck": shapes["params/block1.0/conv1/kernel"][-1],
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    refuse_timm_changes(arguments)
    return {}
