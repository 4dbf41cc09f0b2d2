"""Convolution whose kernel gets its gradient as a product of patches: XLA takes a CPU two to four times as long."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]

# With so few channels, as images have, patches are copied line by line of one channel: down to a third of the time.
_FEW = 4


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_patches(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, C, features]; `pads` are the zeros around the map, down and across."""
    return _convolve(x, kernel, strides, pads)


def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: _convolve(x, kernel, strides, pads), x)(gradient)
    results = gradient.reshape(-1, gradient.shape[-1])
    if x.shape[-1] <= _FEW:
        of_kernel = _planes(x, kernel.shape, gradient.shape, strides, pads) @ results
    else:
        of_kernel = _patches(x, kernel.shape, gradient.shape, strides, pads).T @ results
    return of_x, of_kernel.reshape(kernel.shape)


convolve_patches.defvjp(_forward, _backward)


def _patches(
    x: jax.Array, kernel: Sequence[int], results: Sequence[int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """Gives what each result [B, h, w] sees, as rows [B * h * w, places of the window * C]."""
    (down, across), (height, width) = strides, results[1:3]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    places = [
        x[:, i : i + down * (height - 1) + 1 : down, j : j + across * (width - 1) + 1 : across]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    # The barrier keeps XLA from computing the patches within the product, number by number.
    return jax.lax.optimization_barrier(jnp.concatenate(places, axis=-1)).reshape(-1, len(places) * x.shape[-1])


def _planes(
    x: jax.Array, kernel: Sequence[int], results: Sequence[int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """Gives the same as columns [places of the window * C, B * h * w]."""
    (down, across), (height, width) = strides, results[1:3]
    sides = [count + (kernel[axis] - 1) // strides[axis] for axis, count in enumerate((height, width))]
    edges = [
        (before, stride * side - x.shape[1 + axis] - before, 0)
        for axis, (side, stride, (before, _)) in enumerate(zip(sides, strides, pads, strict=True))
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    x = x.reshape(x.shape[0], sides[0], down, sides[1], across, x.shape[-1])
    # Pixels by where they lie in the stride: each place of the window then sees lines of neighbours.
    phases = jax.lax.optimization_barrier(x.transpose(2, 4, 5, 0, 1, 3))
    planes = [
        phases[i % down, j % across, :, :, i // down : i // down + height, j // across : j // across + width]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return jax.lax.optimization_barrier(jnp.concatenate(planes)).reshape(len(planes) * x.shape[-1], -1)
