"""Self-attention within windows of a map, with a bias learnt for each offset between two places of a window."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.attention import QueryKeyValue
from jaxtl.models.layers.attention_weights import read
from jaxtl.models.layers.dense import Dense

Sides = tuple[int, int]
"""Height and width, in places of a map."""


def split_windows(x: jax.Array, sides: Sides) -> jax.Array:
    """Cuts maps [B, H, W, C] into windows [B, H/h * W/w, h * w, C], row by row; H and W are multiples of the sides."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // sides[0], sides[0], width // sides[1], sides[1], channels)
    return x.swapaxes(2, 3).reshape(batch, -1, sides[0] * sides[1], channels)


def join_windows(x: jax.Array, sides: Sides, size: Sides) -> jax.Array:
    """Puts windows [B, H/h * W/w, h * w, C] together again to maps [B, H, W, C] of that size."""
    batch, channels = x.shape[0], x.shape[-1]
    x = x.reshape(batch, size[0] // sides[0], size[1] // sides[1], *sides, channels)
    return x.swapaxes(2, 3).reshape(batch, *size, channels)


def relative_bias(table: jax.Array, sides: Sides) -> jax.Array:
    """Lays a table [(2h - 1) (2w - 1), heads] of biases by offset out by pairs of places, [heads, h * w, h * w].

    The place (i, j) that asks and the place (k, l) that is asked have row i - k + h - 1 and column j - l + w - 1.
    """
    height, width = sides
    table = table.reshape(2 * height - 1, 2 * width - 1, -1)
    # Slices, whose gradient is a sum of a few arrays in a fixed order; that of an index is a scatter, which a GPU adds
    # up in any order.
    rows = jnp.stack([table[i : i + height][::-1] for i in range(height)])
    pairs = jnp.stack([rows[:, :, j : j + width][:, :, ::-1] for j in range(width)], axis=1)
    return pairs.reshape(height * width, height * width, -1).transpose(2, 0, 1)


class WindowAttention(nn.Module):
    """Multi-head self-attention of each window by itself.

    Attributes:
      sides: of the windows.
      scale: what the products of queries and keys are multiplied by; 0 for 1 / sqrt(channels of a head).
    """

    heads: int
    sides: Sides
    scale: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps windows [B, W, N, C] to the same.

        Args:
          x: the windows, their N places row by row.
          mask: [W, 1, N, N], added to the products of queries and keys; None for nothing.
        """
        batch, windows, count, width = x.shape
        head = width // self.heads
        init = nn.initializers.truncated_normal(0.02)
        places = (2 * self.sides[0] - 1) * (2 * self.sides[1] - 1)
        table = self.param("relative_bias", init, (places, self.heads))
        bias = relative_bias(table, self.sides)[None]
        bias = bias if mask is None else bias + mask
        x = x.reshape(batch * windows, count, width)
        parts = QueryKeyValue(dtype=self.dtype, name="qkv")(x, count)
        query, key, value = (part.reshape(-1, count, self.heads, head).swapaxes(1, 2) for part in parts)
        scores = (query * (self.scale or head**-0.5)) @ key.swapaxes(2, 3)
        scores = scores.astype(jnp.float32).reshape(batch, windows, self.heads, count, count) + bias[None]
        weights = read(jax.nn.softmax(scores, axis=-1)).astype(value.dtype).reshape(-1, self.heads, count, count)
        x = (weights @ value).swapaxes(1, 2).reshape(batch, windows, count, width)
        return Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="proj")(x)
