"""Inception v3 as a module: branches of convolutions side by side; its family is inception_v3."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import Groups, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.layers.batchnorm import norm_fields
from jaxtl.models.layers.conv_norm import ConvNorm, max_pool_3x3, mean_pool_3x3

# A convolution: its name, channels, window, stride. Those at stride 1 keep the size, those at stride 2 are not padded.
Conv = tuple[str, int, tuple[int, int], int]
# A branch is a chain of convolutions; a tuple at its end holds two that read the same maps side by side.
Branch = list[Any]


def _chain(prefix: str, *layers: tuple[int, tuple[int, int]], last_stride: int = 1) -> Branch:
    """Names the convolutions of a branch as torchvision does: "prefix_1", "prefix_2", ..., or "prefix" alone."""
    names = [prefix] if len(layers) == 1 else [f"{prefix}_{i}" for i in range(1, len(layers) + 1)]
    strides = [*[1] * (len(layers) - 1), last_stride]
    return [(name, *layer, stride) for name, layer, stride in zip(names, layers, strides, strict=True)]


_ONE, _THREE, _FIVE, _ROW, _COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _a(pooled: int) -> tuple[list[Branch], str, int]:
    return (
        [
            _chain("branch1x1", (64, _ONE)),
            _chain("branch5x5", (48, _ONE), (64, _FIVE)),
            _chain("branch3x3dbl", (64, _ONE), (96, _THREE), (96, _THREE)),
        ],
        "mean",
        pooled,
    )


def _c(width: int) -> tuple[list[Branch], str, int]:
    seven = (width, _ROW), (width, _COLUMN)
    return (
        [
            _chain("branch1x1", (192, _ONE)),
            _chain("branch7x7", (width, _ONE), (width, _ROW), (192, _COLUMN)),
            _chain("branch7x7dbl", (width, _ONE), seven[1], seven[0], seven[1], (192, _ROW)),
        ],
        "mean",
        192,
    )


def _e() -> tuple[list[Branch], str, int]:
    def pair(name: str) -> tuple[Conv, Conv]:
        return (f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)

    return (
        [
            _chain("branch1x1", (320, _ONE)),
            [("branch3x3_1", 384, _ONE, 1), pair("branch3x3_2")],
            [("branch3x3dbl_1", 448, _ONE, 1), ("branch3x3dbl_2", 384, _THREE, 1), pair("branch3x3dbl_3")],
        ],
        "mean",
        192,
    )


_B = (
    [
        [("branch3x3", 384, _THREE, 2)],
        _chain("branch3x3dbl", (64, _ONE), (96, _THREE), (96, _THREE), last_stride=2),
    ],
    "max",
    0,
)
_D = (
    [
        _chain("branch3x3", (192, _ONE), (320, _THREE), last_stride=2),
        _chain("branch7x7x3", (192, _ONE), (192, _ROW), (192, _COLUMN), (192, _THREE), last_stride=2),
    ],
    "max",
    0,
)

# Of each block: its branches, the pooling of one branch more, and the channels of the convolution after that pooling.
MIXED: dict[str, tuple[list[Branch], str, int]] = {
    "5b": _a(32),
    "5c": _a(64),
    "5d": _a(64),
    "6a": _B,
    "6b": _c(128),
    "6c": _c(160),
    "6d": _c(160),
    "6e": _c(192),
    "7a": _D,
    "7b": _e(),
    "7c": _e(),
}
# Name, channels, window, stride, padding, and whether a pooling follows.
STEM = (
    ("1a_3x3", 32, 3, 2, 0, False),
    ("2a_3x3", 32, 3, 1, 0, False),
    ("2b_3x3", 64, 3, 1, 1, True),
    ("3b_1x1", 80, 1, 1, 0, False),
    ("4a_3x3", 192, 3, 1, 0, True),
)


class Mixed(nn.Module):
    """Branches over the same maps, side by side."""

    branches: list[Branch]
    pooling: str
    pooled: int
    counts_padding: bool
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, D], or half the size."""

        def conv(y: jax.Array, layer: Conv) -> jax.Array:
            name, features, size, stride = layer
            pads = (size[0] // 2, size[1] // 2) if stride == 1 else (0, 0)
            return ConvNorm(features, size, stride, pads, self.norm, self.dtype, name=name)(y, train)

        found = []
        for branch in self.branches:
            y = x
            for layer in branch:
                pair = isinstance(layer[0], tuple)
                y = jnp.concatenate([conv(y, each) for each in layer], axis=-1) if pair else conv(y, layer)
            found.append(y)
        if self.pooling == "max":
            found.append(max_pool_3x3(x, train))
        else:
            mean = mean_pool_3x3(x, counts_padding=self.counts_padding)
            found.append(conv(mean, ("branch_pool", self.pooled, _ONE, 1)))
        return jnp.concatenate(found, axis=-1)


class InceptionV3(BatchNormModel, kw_only=True):
    """An Inception v3 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      aux: whether it has its auxiliary head.
      counts_padding: average pooling counts the padding at the edges, as in PyTorch; Keras does not.
    """

    unseen: ClassVar[tuple[str, ...]] = (*BatchNormModel.unseen, "counts_padding", "aux")
    auxiliary_weight: ClassVar[float] = 0.4
    auxiliary_field: ClassVar[str] = "aux"
    auxiliary_classifiers: ClassVar[str] = "aux/fc"

    num_classes: int
    image_size: int = 299
    aux: bool = True
    counts_padding: bool = True
    epsilon: float = 1e-3

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, each block, the auxiliary head behind 6e, the head."""
        table = [("stem", "conv_.*")]
        for name in MIXED:
            table.append((f"mixed{name}", f"mixed{name}"))
            if name == "6e" and self.aux:
                table.append(("aux", "aux"))
        return (*table, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/conv_1a_3x3/conv/kernel"

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 75

    @property
    def min_training_size(self) -> int:
        """The least side in training: the auxiliary head has a window of 5 x 5 over what its pooling leaves."""
        return 299 if self.aux else self.min_size

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        norm = norm_fields(self)
        if name == "stem":
            for part, features, side, stride, pad, pooled in STEM:
                size, pads = (side, side), (pad, pad)
                x = ConvNorm(features, size, stride, pads, norm, self.dtype, name=f"conv_{part}")(x, train)
                x = max_pool_3x3(x, train) if pooled else x
            return x
        branches, pooling, width = MIXED[name.removeprefix("mixed")]
        block = nn.remat(Mixed, static_argnums=2) if self.remat else Mixed
        x = block(branches, pooling, width, self.counts_padding, norm, self.dtype, name=name)(x, train)
        return self.pooled(x) if name == "mixed7c" else x

    def run_auxiliary(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Gives the logits of the auxiliary head."""
        return Auxiliary(self.num_classes, norm_fields(self), self.dtype, name=name)(x, train)


class Auxiliary(nn.Module):
    """The auxiliary head: a pooling, two convolutions, the mean, and a dense layer."""

    num_classes: int
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to logits [B, num_classes]."""
        if self.is_initializing():
            # Evaluation, which does without, takes smaller images than this window.
            x = jnp.zeros((1, 17, 17, x.shape[-1]), x.dtype)
        x = nn.avg_pool(x, window_shape=(5, 5), strides=(3, 3))
        x = ConvNorm(128, (1, 1), 1, (0, 0), self.norm, self.dtype, name="conv0")(x, train)
        x = ConvNorm(768, (5, 5), 1, (0, 0), self.norm, self.dtype, name="conv1")(x, train)
        return classify(x.mean(axis=(1, 2)), self.num_classes, train=train, name="fc")
