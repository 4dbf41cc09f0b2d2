"""Pooling over windows that do not overlap, and to a grid of a given size."""

import jax
import jax.numpy as jnp
import numpy as np


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows of 2 x 2 at stride 2; an odd last row or column is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    # A reshape: its gradient is a comparison, where that of a window is a search.
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def average_to_grid(x: jax.Array, side: int) -> jax.Array:
    """Averages [B, H, W, C] to [B, side, side, C] over windows that may overlap, as PyTorch's adaptive pooling does."""
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (jnp.asarray(_windows(length, side), x.dtype) for length in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def _windows(length: int, side: int) -> np.ndarray:
    """Returns [side, length]: row i holds the shares of the places from floor(i n / side) to ceil((i + 1) n / side)."""
    shares = np.zeros((side, length), np.float32)
    for i in range(side):
        start, stop = i * length // side, -(-(i + 1) * length // side)
        shares[i, start:stop] = 1 / (stop - start)
    return shares
