"""The Swin Transformer as a module: attention in windows, which shift from block to block; its family is swin."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.base import Fit, GroupedModel, Groups, Shape, classify
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.layernorm import LayerNorm
from jaxtl.models.layers.patch_embed import PatchEmbed
from jaxtl.models.layers.transformer_block import DropPath, Mlp
from jaxtl.models.layers.window_attention import Sides, WindowAttention, join_windows, split_windows
from jaxtl.models.resize import resize_offsets


class Block(nn.Module):
    """Attention in windows, then an MLP, each on a residual branch; before them, perhaps half the size.

    Attributes:
      width: channels of what is returned.
      halve: whether each four neighbours are merged first.
      window: side of the windows.
      shift: whether the windows lie half a window further.
      shift_first: see `Swin`.
    """

    width: int
    heads: int
    halve: bool
    window: int
    shift: bool
    shift_first: bool
    epsilon: float
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width], or half the size."""
        if self.halve:
            x = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="downsample_norm")(neighbours(x))
            x = Dense(self.width, use_bias=False, dtype=self.dtype, name="downsample")(x)
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        x = x + self._branch(self._attend(y), train)
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = Mlp(4 * self.width, "exact", self.dropout, self.dtype, name="mlp")(y, train)
        return x + self._branch(y, train)

    def _branch(self, y: jax.Array, train: bool) -> jax.Array:
        shape = y.shape
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = DropPath(self.drop_path)(y.reshape(shape[0], -1, shape[-1]), deterministic=not train)
        return y.reshape(shape)

    def _attend(self, x: jax.Array) -> jax.Array:
        def attend(windows: jax.Array, sides: Sides, mask: jax.Array | None) -> jax.Array:
            return WindowAttention(self.heads, sides, dtype=self.dtype, name="attn")(windows, mask)

        return in_windows(x, attend, window=self.window, shift=self.shift, shift_first=self.shift_first)


def in_windows(
    x: jax.Array,
    attend: Callable[[jax.Array, Sides, jax.Array | None], jax.Array],
    *,
    window: int,
    shift: bool,
    shift_first: bool,
) -> jax.Array:
    """Shifts and pads maps [B, H, W, C], runs `attend` in their windows, and undoes both.

    Args:
      x: the maps.
      attend: maps windows [B, W, N, C], with their sides and the mask of `shift_mask` or None, to the same.
      window: as in `Block`, and so are the others.
      shift: likewise.
      shift_first: likewise.
    """
    size: Sides = x.shape[1], x.shape[2]
    sides = window_sides(window, size, shrink=shift_first)
    # A map of one window has nowhere to shift to.
    steps = [side // 2 if shift and side < length else 0 for side, length in zip(sides, size, strict=True)]
    missing = [-length % side for side, length in zip(sides, size, strict=True)]
    padding = ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))
    padded: Sides = size[0] + missing[0], size[1] + missing[1]
    back = [-step for step in steps]
    x = jnp.roll(x, back, (1, 2)) if shift_first else x
    x = jnp.pad(x, padding) if any(missing) else x
    x = x if shift_first else jnp.roll(x, back, (1, 2))
    mask = shift_mask(padded, sides, (steps[0], steps[1])) if any(steps) else None
    x = join_windows(attend(split_windows(x, sides), sides, mask), sides, padded)
    if shift_first:
        return jnp.roll(x[:, : size[0], : size[1]], steps, (1, 2))
    return jnp.roll(x, steps, (1, 2))[:, : size[0], : size[1]]


def window_sides(window: int, size: Sides, *, shrink: bool) -> Sides:
    """Gives the sides of the windows on a map of that size; with `shrink` they are at most those of the map."""
    return (min(window, size[0]), min(window, size[1])) if shrink else (window, window)


def shift_mask(size: Sides, sides: Sides, steps: Sides) -> jax.Array:
    """Keeps places apart that only the shift brought into one window: [windows, 1, N, N] of 0 and -100."""
    regions = [
        (np.arange(length) >= length - side).astype(int) + (np.arange(length) >= length - step) * (step > 0)
        for length, side, step in zip(size, sides, steps, strict=True)
    ]
    regions[0] *= 3
    labels = regions[0][:, None] + regions[1][None]
    labels = labels.reshape(size[0] // sides[0], sides[0], size[1] // sides[1], sides[1]).swapaxes(1, 2)
    labels = labels.reshape(-1, 1, sides[0] * sides[1])
    return jnp.asarray(np.where(labels[..., :, None] == labels[..., None, :], 0.0, -100.0), jnp.float32)


def neighbours(x: jax.Array) -> jax.Array:
    """Joins the channels of 2 x 2 neighbours, column by column: [B, H, W, C] to [B, H/2, W/2, 4C]; odd sides grow."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


class Swin(GroupedModel):
    """A Swin Transformer from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      blocks: the number of blocks in each stage.
      heads: the number of heads in each stage.
      image_size: side of the square images, in pixels; a multiple of `patch`.
      width: channels of the first stage; each doubles them.
      window: side of the windows, in places of the map.
      shift_first: maps are shifted before they are padded to whole windows, and windows are no larger than the map, as
        in timm; otherwise they are padded first, and to a whole window at least, as in torchvision and transformers.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "shift_first")

    num_classes: int
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    image_size: int = 224
    patch: int = 4
    width: int = 96
    window: int = 7
    shift_first: bool = False
    epsilon: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.patch}, the side of its patches")
        if len(self.heads) != len(self.blocks):
            raise ValueError(f"{len(self.heads)} numbers of heads are given for {len(self.blocks)} stages")
        super().__post_init__()

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        names = [(stage, i) for stage, count in enumerate(self.blocks, start=1) for i in range(count)]
        blocks = [(f"stage{stage}.{i}", rf"stage{stage}\.{i}") for stage, i in names]
        name, pattern = blocks[-1]
        return (("stem", "patch_embed|stem_norm"), *blocks[:-1], (name, f"{pattern}|norm"), ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [P, P, C, D] that sees the pixels."""
        return "params/patch_embed/kernel"

    @property
    def maps(self) -> tuple[int, ...]:
        """The sides of the maps of each stage."""
        side = self.image_size // self.patch
        return tuple(math.ceil(side / 2**stage) for stage in range(len(self.blocks)))

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives the tables of biases by offset, as in timm."""
        return (r".*/relative_bias",)

    def fit(self, path: str, before: Shape, after: Shape, *, positions: str) -> Fit | None:
        """Fits a table of biases [(2w - 1) ** 2, heads] to another window, besides what every model fits."""
        if path.endswith("/relative_bias") and before[1:] == after[1:]:
            if all(math.isqrt(count) ** 2 == count for count in (before[0], after[0])):
                return partial(resize_offsets, offsets=after[0])
            return None
        return super().fit(path, before, after, positions=positions)

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return self.patch

    def roll_back(self, layers: Sequence[jax.Array]) -> jax.Array:
        """Follows what the head reads back through the windows of all blocks to the patches.

        Every place of the last map has the same share at first. Each block hands it on within its windows, shifted as
        they are; where four places were merged, each gets a quarter. It is the product of whole [N, N] matrices, which
        are zero outside the windows, without writing them down.

        Args:
          layers: a matrix for each block, from input to head, [B, windows, n, n] with the n places of a window.

        Returns:
          [B, h, w], a number for each patch of images of `image_size`.
        """
        sides, left = self.maps, list(layers)
        relevance = jnp.full((left[0].shape[0], sides[-1], sides[-1]), 1 / sides[-1] ** 2, jnp.float32)
        for stage in reversed(range(len(self.blocks))):
            for index in reversed(range(self.blocks[stage])):
                relevance = relevance + self._hand_on(relevance, left.pop(), shift=index % 2 == 1)
            if stage:
                relevance = relevance.repeat(2, axis=1).repeat(2, axis=2) / 4
                relevance = relevance[:, : sides[stage - 1], : sides[stage - 1]]
        return relevance

    def _hand_on(self, relevance: jax.Array, layer: jax.Array, *, shift: bool) -> jax.Array:
        """Gives what places [B, h, w] get from those of their windows that attended to them."""

        def attend(windows: jax.Array, sides: Sides, mask: jax.Array | None) -> jax.Array:
            return layer.swapaxes(2, 3) @ windows

        maps = relevance[..., None]
        return in_windows(maps, attend, window=self.window, shift=shift, shift_first=self.shift_first)[..., 0]

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "head":
            return classify(x, self.num_classes, train=train)
        if name == "stem":
            sides = x.shape[1] // self.patch, x.shape[2] // self.patch
            embed = PatchEmbed(self.patch, self.width, self.dropout, self.dtype, name="patch_embed")
            x = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="stem_norm")(embed(x))
            return embed.drop(x, deterministic=not train).reshape(x.shape[0], *sides, self.width)
        stage, index = (int(part) for part in name.removeprefix("stage").split("."))
        before, total = sum(self.blocks[: stage - 1]) + index, sum(self.blocks)
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            width=self.width * 2 ** (stage - 1),
            heads=self.heads[stage - 1],
            halve=stage > 1 and index == 0,
            window=self.window,
            shift=index % 2 == 1,
            shift_first=self.shift_first,
            epsilon=self.epsilon,
            dropout=self.dropout,
            drop_path=self.drop_path * before / max(total - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)
        if before < total - 1:
            return x
        return self.pooled(LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x))
