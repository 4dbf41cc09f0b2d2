"""3 x 3 convolution with 16 products where the window asks for 36: Winograd's F(2 x 2, 3 x 3), arXiv:1509.09308.

Each tile of 2 x 2 results comes from 4 x 4 pixels. Sums transform pixels and kernel to 4 x 4 numbers each, their
products are summed over the channels, and sums of those are the results; the products of all tiles at one of the 16
places are a matrix product [tiles, C] x [C, features]. Larger tiles would save more and lose a digit; these hardly do.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

Matrix = Sequence[Sequence[float]]
Grid = list[list[jax.Array]]

_PIXELS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_RESULTS = ((1, 1, 1, 0), (0, 1, -1, -1))


@jax.custom_vjp
def convolve_tiles(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves [B, H, W, C] with [3, 3, C, features] at stride 1, with one line of zeros on every side."""
    return _join(_multiply(_tiles(x), _both(_KERNEL, kernel), (1, 0)), x.shape)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_tiles(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_x = _join(_multiply(_tiles(gradient), _both(_KERNEL, kernel[::-1, ::-1]), (1, 1)), x.shape)
    # Each transformation again, transposed, in the opposite order.
    even = jnp.pad(gradient, [(0, side % 2 if axis in (1, 2) else 0) for axis, side in enumerate(gradient.shape)])
    results = _both(_transpose(_RESULTS), [[even[:, i::2, j::2] for j in range(2)] for i in range(2)])
    of_kernel = _both(_transpose(_KERNEL), _multiply(_tiles(x), results, (0, 0)))
    return of_x, jnp.stack([jnp.stack(row) for row in of_kernel])


convolve_tiles.defvjp(_forward, _backward)


def _tiles(x: jax.Array) -> Grid:
    """Transforms the 4 x 4 pixels of each tile: 4 x 4 arrays [B, tiles down, tiles across, C]."""
    down, across = ((side + 1) // 2 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1 + x.shape[1] % 2), (1, 1 + x.shape[2] % 2), (0, 0)))
    # The windows overlap, so lines are transformed whole and only then cut into tiles.
    lines = _combine(_PIXELS, [x[:, i : i + 2 * down - 1 : 2] for i in range(4)])
    return [_combine(_PIXELS, [line[:, :, j : j + 2 * across - 1 : 2] for j in range(4)]) for line in lines]


def _multiply(left: Grid, right: Grid, axes: tuple[int, int]) -> Grid:
    """Multiplies place by place, summing over one axis of each; what has more axes is a matrix of its last one."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (a, b))
        return jax.lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())))

    return [[product(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def _join(products: Grid, shape: Sequence[int]) -> jax.Array:
    """Puts the tiles together to [B, H, W, features]; `shape` begins with B, H and W."""
    batch, height, width = shape[:3]
    down, across = (height + 1) // 2, (width + 1) // 2
    rows = [jnp.stack(row, axis=1) for row in _both(_RESULTS, products)]
    x = jnp.stack(rows, axis=1).reshape(batch, down, across, 2, 2, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * down, 2 * across, -1)[:, :height, :width]


def _both(matrix: Matrix, grid: Iterable[Iterable[jax.Array]]) -> Grid:
    """Gives matrix grid matrix^T, of a grid of arrays of one shape."""
    columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    sums = [sum(weight * array for weight, array in zip(row, arrays, strict=True) if weight) for row in matrix]
    # XLA would compute each sum again in all that it goes into.
    return jax.lax.optimization_barrier(sums)


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
