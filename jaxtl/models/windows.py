"""Convolution and max pooling in the form that the backend does fastest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.backend import backend
from jaxtl.models.winograd import convolve_tiles

Padding = str | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], ...]


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, C, features]; the options are those of `jax.lax.conv_general_dilated`."""
    sides = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    dilated = any(side != 1 for name in ("lhs_dilation", "rhs_dilation") for side in options.get(name) or ())
    grouped = options.get("feature_group_count", 1) > 1 or options.get("batch_group_count", 1) > 1
    if backend() != "cpu" or dilated or grouped:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if kernel.shape[:2] == (1, 1) and (isinstance(sides, str) or sides == ((0, 0), (0, 0))):
        # A convolution of one pixel is a matrix product, which takes a CPU half the time; so do its gradients.
        x = x[:, :: strides[0], :: strides[1]]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    if (
        kernel.shape[:2] == (3, 3)
        and tuple(strides) == (1, 1)
        and sides in ("SAME", ((1, 1), (1, 1)))
        and min(kernel.shape[2:]) >= 32
        and x.dtype == kernel.dtype == jnp.float32
    ):
        # Half the time of XLA's own; with fewer channels, as in the first stage of a CIFAR ResNet, the sums take more
        # than the products save.
        return convolve_tiles(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def max_pool(x: jax.Array, padding: Padding, train: bool) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows of 3 x 3 at stride 2; `train` if it will be differentiated."""
    if not train or backend() != "cpu":
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), padding)
    # Its gradient takes a CPU ten times as long as what follows.
    return _max_pool(x, tuple(map(tuple, padding)), x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, padding: Pads, sides: tuple[int, int]) -> jax.Array:
    return _max_pool_forward(x, padding, sides)[0]


def _max_pool_forward(x: jax.Array, padding: Pads, sides: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima, and for the way back where in its window each was found: 0 to 8, row after row."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    height, width = ((side - 3) // 2 + 1 for side in padded.shape[1:3])
    best = padded[:, : 2 * height - 1 : 2, : 2 * width - 1 : 2]
    place = jnp.zeros(best.shape, jnp.int8)
    for number in range(1, 9):
        i, j = divmod(number, 3)
        part = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        # Of equal ones the first counts, as in the gradient of max pooling.
        place = jnp.where(part > best, jnp.int8(number), place)
        best = jnp.where(part > best, part, best)
    return best, place


def _max_pool_backward(
    padding: Pads, sides: tuple[int, int], place: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    parts = [jnp.where(place == number, gradient, 0) for number in range(9)]
    rows = [_spread(*parts[3 * i : 3 * i + 3], axis=2) for i in range(3)]
    padded = _spread(*rows, axis=1)
    # The padding goes; what no window reaches is 0.
    edges = [(-padding[axis][0], sides[axis] + padding[axis][0] - padded.shape[1 + axis], 0) for axis in range(2)]
    return (jax.lax.pad(padded, jnp.zeros((), padded.dtype), [(0, 0, 0), *edges, (0, 0, 0)]),)


def _spread(first: jax.Array, second: jax.Array, third: jax.Array, *, axis: int) -> jax.Array:
    """Adds n windows of three up into a line of 2 n + 1 along an axis: each begins where the one before it ends."""

    def pad(x, before, after):
        return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])

    even, odd = pad(first, 0, 1) + pad(third, 1, 0), pad(second, 0, 1)
    line = jnp.stack([even, odd], axis + 1)
    line = line.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])
    return jax.lax.slice_in_dim(line, 0, 2 * even.shape[axis] - 1, axis=axis)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
