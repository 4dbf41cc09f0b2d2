"""Convolution of each channel alone, as sums of shifted maps: XLA's own takes a CPU twenty times as long.

Pixels are sorted by where they lie in the stride (their phase), so that every place of the window meets a block of
neighbouring ones. The channels come last and are what the processor's vectors hold.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

Grid = list[list[jax.Array]]

# Two maps of so many pixels an example stay in the cache while they are multiplied and summed.
_SMALL = 32 * 32


class Window(NamedTuple):
    """Where a window lies: its strides, the zeros before the map and after it, down and across."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]


def convolve_channels(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, 1, C], each channel with its own kernel."""
    down, across = strides
    return _convolve(x, kernel, Window((down, across), pads_of(x.shape, kernel.shape, strides, padding)))


def pads_of(
    shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Gives the zeros before and after a map [B, H, W, C], down and across, for a kernel [h, w, C, features]."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(shape[1:3], kernel[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


# Compiled functions, for layers of one shape to be traced but once.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    (height, width), results = kernel.shape[:2], _results(x.shape, kernel.shape, window)
    phases = _phases(x, kernel.shape, window)
    y = None
    for i in range(height):
        # A row of the window at a time: XLA's loop over all its places reads too many lines at once.
        parts = _row(phases, i, width, results, window.strides)
        y = _add(y, [part * _factor(kernel, i, j) for j, part in enumerate(parts)])
    return _zeros(x, results) if y is None else y


def _forward(x: jax.Array, kernel: jax.Array, window: Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, window), (x, kernel)


@partial(jax.jit, static_argnums=0)
def _backward(window: Window, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _of_pixels(x.shape, kernel, gradient, window), _of_kernel(x, kernel.shape, gradient, window)


_convolve.defvjp(_forward, _backward)


def _of_pixels(shape: Sequence[int], kernel: jax.Array, gradient: jax.Array, window: Window) -> jax.Array:
    """The gradient of the pixels: each phase meets some places of the window, turned around."""
    size, (down, across) = kernel.shape[:2], window.strides
    more = [(side - 1) // stride for side, stride in zip(size, window.strides, strict=True)]
    sides = [side + extra for side, extra in zip(gradient.shape[1:3], more, strict=True)]
    padded = _pad(gradient, [(extra, extra) for extra in more])

    def phase(top: int, left: int) -> jax.Array:
        y = None
        for i in range(top, size[0], down):
            places = [(more[0] - i // down, more[1] - j // across, j) for j in range(left, size[1], across)]
            y = _add(y, [_cut(padded, (row, column), sides) * _factor(kernel, i, j) for row, column, j in places])
        return _zeros(gradient, sides) if y is None else y

    rows = [jnp.stack([phase(i, j) for j in range(across)], 3) for i in range(down)]
    together = jnp.stack(rows, 2).reshape(shape[0], down * sides[0], across * sides[1], shape[3])
    # The padding goes; what no window reaches is 0.
    edges = []
    for axis, (before, _) in enumerate(window.padding):
        edges.append((-before, shape[1 + axis] + before - together.shape[1 + axis], 0))
    return jax.lax.pad(together, jnp.zeros((), together.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _of_kernel(x: jax.Array, shape: Sequence[int], gradient: jax.Array, window: Window) -> jax.Array:
    """The gradient of the kernel: at each place of the window, the sum of pixels times gradients."""
    results = gradient.shape[1:3]
    phases = _phases(x, shape, window)
    gradient = jax.lax.optimization_barrier(gradient)
    parts = [part for i in range(shape[0]) for part in _row(phases, i, shape[1], results, window.strides)]
    # One reduction of all places reads pixels and gradients once, and line by line, which stay in the cache.
    axes = (1, 2) if results[0] * results[1] <= _SMALL else (2,)
    zeros = (jnp.zeros((), x.dtype),) * len(parts)
    sums = jax.lax.reduce(
        tuple(part * gradient for part in parts), zeros, lambda a, b: tuple(map(jax.lax.add, a, b)), axes
    )
    lines = jnp.stack(jax.lax.optimization_barrier(sums))
    return lines.sum(axis=tuple(range(1, lines.ndim - 1))).reshape(shape)


def _results(shape: Sequence[int], size: Sequence[int], window: Window) -> tuple[int, int]:
    """Gives the sides of what the convolution returns."""
    down, across = (
        (side + sum(pads) - length) // stride + 1
        for side, pads, length, stride in zip(shape[1:3], window.padding, size[:2], window.strides, strict=True)
    )
    return down, across


def _phases(x: jax.Array, size: Sequence[int], window: Window) -> Grid:
    """Gives padded pixels by where they lie in the strides, down and across: arrays [B, H', W', C]."""
    (down, across), results = window.strides, _results(x.shape, size, window)
    sides = [count + (size[axis] - 1) // window.strides[axis] for axis, count in enumerate(results)]
    edges = [
        (before, stride * side - x.shape[1 + axis] - before)
        for axis, (side, stride, (before, _)) in enumerate(zip(sides, window.strides, window.padding, strict=True))
    ]
    x = _pad(x, edges)
    if window.strides == (1, 1):
        return [[x]]
    x = x.reshape(x.shape[0], sides[0], down, sides[1], across, x.shape[-1])
    return jax.lax.optimization_barrier([[x[:, :, i, :, j] for j in range(across)] for i in range(down)])


def _row(phases: Grid, i: int, width: int, sides: Sequence[int], strides: tuple[int, int]) -> list[jax.Array]:
    """Gives the pixels [B, *sides, C] that the places of row i of the window meet."""
    down, across = strides
    return [_cut(phases[i % down][j % across], (i // down, j // across), sides) for j in range(width)]


def _pad(x: jax.Array, edges: Sequence[tuple[int, int]]) -> jax.Array:
    zero = jnp.zeros((), x.dtype)
    padded = jax.lax.pad(x, zero, [(0, 0, 0), *((before, after, 0) for before, after in edges), (0, 0, 0)])
    # The barrier keeps the padding out of the loops that follow, where it would be a question for each pixel.
    return jax.lax.optimization_barrier(padded)


def _cut(x: jax.Array, corner: tuple[int, int], sides: Sequence[int]) -> jax.Array:
    (top, left), (height, width) = corner, sides
    return jax.lax.slice(x, (0, top, left, 0), (x.shape[0], top + height, left + width, x.shape[3]))


def _factor(kernel: jax.Array, i: int, j: int) -> jax.Array:
    """Gives the place [1, 1, 1, C] of a kernel."""
    return jax.lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, *kernel.shape[2:]))


def _add(y: jax.Array | None, parts: Sequence[jax.Array]) -> jax.Array | None:
    """Adds up to y, as a map of its own."""
    for part in parts:
        y = part if y is None else y + part
    return y if y is None else jax.lax.optimization_barrier(y)


def _zeros(x: jax.Array, sides: Sequence[int]) -> jax.Array:
    return jnp.zeros((len(x), *sides, x.shape[3]), x.dtype)
