"""Pooling over windows that do not overlap, and to a grid of a given size."""

import jax
import jax.numpy as jnp
import numpy as np

# The gradient of `max` asks anew which number is equal to the maximum. XLA may compute the numbers another time for
# that, rounded otherwise: then none is, and the gradient is 0, or 0 / 0. Here the way back knows where the maximum was.


@jax.custom_vjp
def max_over_places(x: jax.Array) -> jax.Array:
    """Takes the maximum of [B, N, D] over the N places; its gradient goes to the first of equal ones."""
    return x.max(axis=1)


def _max_over_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x.max(axis=1), (x.argmax(axis=1), jnp.zeros((0, x.shape[1]), x.dtype))


def _max_over_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    place, empty = saved
    numbers = jnp.arange(empty.shape[1], dtype=place.dtype)
    return (jnp.where(numbers[None, :, None] == place[:, None], gradient[:, None], 0),)


max_over_places.defvjp(_max_over_forward, _max_over_backward)


@jax.custom_vjp
def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows of 2 x 2 at stride 2; an odd last row or column is left out."""
    return _windows_of_4(x).max(axis=(2, 4))


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the maxima, and for the way back where in its window each was found: 0 to 3, row after row."""
    windows = _windows_of_4(x)
    best = windows[:, :, 0, :, 0]
    place = jnp.zeros(best.shape, jnp.int8)
    for number in range(1, 4):
        part = windows[:, :, number // 2, :, number % 2]
        # Of equal ones the first counts, as in PyTorch.
        place = jnp.where(part > best, jnp.int8(number), place)
        best = jnp.where(part > best, part, best)
    return best, (place, jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    place, empty = saved
    parts = [jnp.where(place == number, gradient, 0) for number in range(4)]
    rows = [jnp.stack(parts[first : first + 2], axis=3) for first in (0, 2)]
    batch, height, width, channels = gradient.shape
    whole = jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)
    odd = [(0, side - 2 * (side // 2)) for side in empty.shape[1:]]
    return (jnp.pad(whole, ((0, 0), *odd, (0, 0))) if any(more for _, more in odd) else whole,)


max_pool_2x2.defvjp(_max_pool_forward, _max_pool_backward)


def _windows_of_4(x: jax.Array) -> jax.Array:
    """Gives [B, H/2, 2, W/2, 2, C]."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def average_to_grid(x: jax.Array, side: int) -> jax.Array:
    """Averages [B, H, W, C] to [B, side, side, C] over windows that may overlap, as PyTorch's adaptive pooling does."""
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (jnp.asarray(_windows(length, side), x.dtype) for length in x.shape[1:3])
    # One after the other: the order of three would be asked of sizes, and a batch of any size has none.
    return jnp.einsum("jw,biwc->bijc", columns, jnp.einsum("ih,bhwc->biwc", rows, x))


def _windows(length: int, side: int) -> np.ndarray:
    """Returns [side, length]: row i holds the shares of the places from floor(i n / side) to ceil((i + 1) n / side)."""
    shares = np.zeros((side, length), np.float32)
    for i in range(side):
        start, stop = i * length // side, -(-(i + 1) * length // side)
        shares[i, start:stop] = 1 / (stop - start)
    return shares
