"""MaxViT as a module: by turns a convolution, attention in windows and attention on a grid; its family is maxvit."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import Fit, Groups, Shape, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.convolution import conv
from jaxtl.models.layers.batchnorm import BatchNorm, norm_fields
from jaxtl.models.layers.gelu import KINDS
from jaxtl.models.layers.layernorm import LayerNorm
from jaxtl.models.layers.squeeze_excite import SqueezeExcite
from jaxtl.models.layers.transformer_block import DropPath, Mlp
from jaxtl.models.layers.window_attention import Sides, WindowAttention, join_windows, split_windows
from jaxtl.models.layers.windows import mean_over_windows
from jaxtl.models.resize import resize_offsets

# Of the LayerNorms; the epsilon of the model is that of its BatchNorms.
_EPSILON = 1e-5
_HEAD_WIDTH = 32


class Convolution(nn.Module):
    """An inverted residual block with a norm before it, https://arxiv.org/abs/1801.04381; it may halve the map."""

    width: int
    stride: int
    torchvision: bool
    gelu: str
    norm: Mapping[str, Any]
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, width]."""
        hidden, activate = 4 * self.width, KINDS[self.gelu]
        shortcut = self._shortcut(x)
        y = self._norm(x, train, "pre_norm")
        y = conv(hidden, 1, bias=False, dtype=self.dtype, name="expand")(y)
        y = activate(self._norm(y, train, "expand_bn"))
        padding = 1 if self.torchvision else "SAME"
        y = conv(hidden, 3, self.stride, padding, hidden, bias=False, dtype=self.dtype, name="depthwise")(y)
        y = activate(self._norm(y, train, "depthwise_bn"))
        y = SqueezeExcite(self.width // 4, "swish", "sigmoid", self.dtype, name="squeeze")(y)
        y = conv(self.width, 1, dtype=self.dtype, name="project")(y)
        return shortcut + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)

    def _shortcut(self, x: jax.Array) -> jax.Array:
        if self.stride == 1:
            return x
        width = x.shape[-1]
        side, pad = (3, 1) if self.torchvision else (2, 0)
        x = mean_over_windows(x, (side, side), (2, 2), ((pad, pad), (pad, pad)))
        if self.torchvision or width != self.width:
            x = conv(self.width, 1, dtype=self.dtype, name="shortcut")(x)
        return x

    def _norm(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return BatchNorm(**self.norm, name=name)(x, use_running_average=not train)


class PartitionAttention(nn.Module):
    """Attention in windows, or with `grid` between the places that lie alike in each of them, and an MLP."""

    window: int
    grid: bool
    torchvision: bool
    gelu: str
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to the same; H and W are multiples of the window."""
        size: Sides = x.shape[1], x.shape[2]
        width, sides = x.shape[-1], (self.window, self.window)
        cut = (size[0] // self.window, size[1] // self.window) if self.grid else sides
        y = split_windows(LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm1")(x), cut)
        # torchvision divides by the root of all channels, the authors by that of the channels of a head.
        scale = width**-0.5 if self.torchvision else 0.0
        attend = WindowAttention(width // _HEAD_WIDTH, sides, scale, self.dtype, name="attn")
        y = attend(y.swapaxes(1, 2)).swapaxes(1, 2) if self.grid else attend(y)
        x = x + self._drop(join_windows(y, cut, size), train)
        y = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm2")(x)
        return x + self._drop(Mlp(4 * width, self.gelu, 0.0, self.dtype, name="mlp")(y, train), train)

    def _drop(self, y: jax.Array, train: bool) -> jax.Array:
        shape = y.shape
        y = DropPath(self.drop_path)(y.reshape(shape[0], -1, shape[-1]), deterministic=not train)
        return y.reshape(shape)


class Block(nn.Module):
    """A convolution, attention in windows, and attention on a grid."""

    width: int
    halve: bool
    window: int
    torchvision: bool
    gelu: str
    norm: Mapping[str, Any]
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width], or half the size."""
        kind, drop_path, stride = (self.torchvision, self.gelu), self.drop_path, 2 if self.halve else 1
        x = Convolution(self.width, stride, *kind, self.norm, drop_path, self.dtype, name="conv")(x, train)
        x = PartitionAttention(self.window, False, *kind, drop_path, self.dtype, name="window")(x, train)
        return PartitionAttention(self.window, True, *kind, drop_path, self.dtype, name="grid")(x, train)


class MaxViT(BatchNormModel, kw_only=True):
    """A MaxViT from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      blocks: the number of blocks in each stage.
      image_size: side of the square images, in pixels; the side of the last map, 32 times smaller with four stages, is
        a multiple of the window.
      width: channels of the first stage; each doubles them.
      window: side of the windows, and of the grid; 0 for the side of the last map, as in timm.
      torchvision: whether it is torchvision's, which pads convolutions on all sides, averages 3 x 3 pixels for a
        shortcut and always projects it, divides the products of queries and keys by the root of all channels, and has
        no bias before its first norm and in its head.
      gelu: one of `jaxtl.models.layers.gelu.KINDS`.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "gelu", "momentum", "torchvision", "window")

    num_classes: int
    blocks: tuple[int, ...]
    image_size: int = 224
    width: int = 64
    stem_width: int = 64
    window: int = 0
    torchvision: bool = False
    gelu: str = "tanh"
    epsilon: float = 1e-3
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        shrink = 2 ** (len(self.blocks) + 1)
        if self.image_size % (shrink * max(self.window, 1)):
            raise ValueError(
                f"image_size {self.image_size} is no multiple of {shrink * max(self.window, 1)}, "
                f"{shrink} pixels for each place of a window"
            )
        super().__post_init__()

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        names = [(stage, i) for stage, count in enumerate(self.blocks, start=1) for i in range(count)]
        blocks = [(f"stage{stage}.{i}", rf"stage{stage}\.{i}") for stage, i in names]
        name, pattern = blocks[-1]
        return (("stem", "stem_.*"), *blocks[:-1], (name, f"{pattern}|norm"), ("head", "pre_logits|head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/stem_conv1/kernel"

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives the tables of biases by offset, as in timm."""
        return (r".*/relative_bias",)

    def fit(self, path: str, before: Shape, after: Shape, *, positions: str) -> Fit | None:
        """Fits a table of biases [(2w - 1) ** 2, heads] to another window, besides what every model fits."""
        if path.endswith("/relative_bias") and before[1:] == after[1:]:
            return partial(resize_offsets, offsets=after[0]) if math.isqrt(before[0]) ** 2 == before[0] else None
        return super().fit(path, before, after, positions=positions)

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 2 ** (len(self.blocks) + 1)

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "head":
            return self._head(x, train)
        if name == "stem":
            return self._stem(x, train)
        stage, index = (int(part) for part in name.removeprefix("stage").split("."))
        before, total = sum(self.blocks[: stage - 1]) + index, sum(self.blocks)
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            width=self.width * 2 ** (stage - 1),
            halve=index == 0,
            window=self.window or self.image_size >> (len(self.blocks) + 1),
            torchvision=self.torchvision,
            gelu=self.gelu,
            norm=norm_fields(self),
            drop_path=self.drop_path * before / max(total - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)
        if before < total - 1:
            return x
        norm = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")
        # The norm comes first where another pooling follows.
        return self.pooled(norm(x)) if self.head_pool else norm(self.pooled(x))

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        padding = 1 if self.torchvision else "SAME"
        bias = not self.torchvision
        x = conv(self.stem_width, 3, 2, padding, bias=bias, dtype=self.dtype, name="stem_conv1")(x)
        x = BatchNorm(**norm_fields(self), name="stem_bn")(x, use_running_average=not train)
        return conv(self.stem_width, 3, 1, 1, dtype=self.dtype, name="stem_conv2")(KINDS[self.gelu](x))

    def _head(self, x: jax.Array, train: bool) -> jax.Array:
        if self.num_classes:
            x = jnp.tanh(nn.Dense(x.shape[-1], name="pre_logits")(x.astype(jnp.float32)))
        return classify(x, self.num_classes, train=train, dropout=self.dropout, bias=not self.torchvision)
