"""Maxima and means over windows that may reach over the edge of a map."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.parallel.backend import backend

Padding = str | Sequence[tuple[int, int]]

# Pooling that pads is one operation to XLA. In the plain form the padding is one of its own: jax2onnx 0.17 takes the
# first for one without padding, and says nothing (logits of a ResNet are a third off then).


def max_over_windows(x: jax.Array, window: tuple[int, int], strides: tuple[int, int], padding: Padding) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows; padding never counts."""
    if backend() == "none":
        x, padding = _padded(x, window, strides, padding, -jnp.inf), "VALID"
    return nn.max_pool(x, window_shape=window, strides=strides, padding=padding)


def mean_over_windows(
    x: jax.Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = "VALID",
    *,
    counts_padding: bool = True,
) -> jax.Array:
    """Averages [B, H, W, C] over windows: with `counts_padding` padding counts as zeros, else not at all."""
    options = {"window_shape": window, "strides": strides}
    if backend() != "none":
        return nn.avg_pool(x, padding=padding, count_include_pad=counts_padding, **options)
    mean = nn.avg_pool(_padded(x, window, strides, padding, 0), padding="VALID", **options)
    if counts_padding:
        return mean
    here = _padded(jnp.ones((1, *x.shape[1:3], 1), x.dtype), window, strides, padding, 0)
    return mean / nn.avg_pool(here, padding="VALID", **options)


def _padded(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], padding: Padding, value: float
) -> jax.Array:
    pads = padding
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, pads)
    height, width = (side + min(0, high) for side, (_, high) in zip(x.shape[1:3], pads, strict=True))
    added = [(0, 0), *((low, max(0, high)) for low, high in pads), (0, 0)]
    x = x[:, :height, :width]
    return jnp.pad(x, added, constant_values=value) if any(map(any, added)) else x
