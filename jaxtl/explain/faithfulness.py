"""Deletion and insertion (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421): does a map name what matters?

Deletion takes pixels away in the order of the map, the strongest first: the probability of the class should fall soon.
Insertion puts them into a blurred image: it should rise soon.

Only maps of the same grain can be compared: scattered pixels destroy more than as many side by side, so that a random
map of pixels seems to beat what has a value for each patch. `by_cells` brings maps to one grain.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.explain.target import Variables, apply
from jaxtl.models.base import GroupedModel

STEPS = 16


@partial(jax.jit, static_argnames=("model", "steps"))
def deletion_curve(
    model: GroupedModel,
    variables: Variables,
    images: jax.Array,
    classes: jax.Array,
    maps: jax.Array,
    *,
    steps: int = STEPS,
) -> jax.Array:
    """Returns the probability of the class [B, steps + 1], as pixels become grey: none of them first, at last all.

    Args:
      model: the model.
      variables: of it.
      images: normalised, float32 [B, H, W, C]; zeros, the mean colour, take their place.
      classes: their indices [B].
      maps: [B, H, W]; its strongest pixels go first, and equal ones row by row.
      steps: parts in which they go.
    """
    return _curve(model, variables, (images, jnp.zeros_like(images)), classes, _ranks(maps), steps)


@partial(jax.jit, static_argnames=("model", "steps"))
def insertion_curve(
    model: GroupedModel,
    variables: Variables,
    images: jax.Array,
    classes: jax.Array,
    maps: jax.Array,
    *,
    steps: int = STEPS,
) -> jax.Array:
    """Returns the probability of the class [B, steps + 1], as pixels come into the blurred image.

    The arguments are those of `deletion_curve`.
    """
    return _curve(model, variables, (blur(images), images), classes, _ranks(maps), steps)


def area(curves: np.ndarray | jax.Array) -> np.ndarray:
    """Returns the area [B] under curves [B, steps + 1] over [0, 1]: good is small for deletion, great for insertion."""
    values = np.asarray(curves)
    return (values[:, 1:] + values[:, :-1]).mean(axis=1) / 2


def blur(images: jax.Array) -> jax.Array:
    """Blurs images [B, H, W, C] until nothing can be told: a Gaussian of a twentieth of the side, edges repeated."""
    rows, columns = (jnp.asarray(_blurring(length), images.dtype) for length in images.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, images)


def _blurring(length: int) -> np.ndarray:
    """Returns the matrix [length, length] that blurs a line."""
    deviation = length / 20
    offsets = np.arange(-int(3 * deviation), int(3 * deviation) + 1)
    kernel = np.exp(-((offsets / deviation) ** 2) / 2)
    matrix = np.zeros((length, length))
    for offset, share in zip(offsets, kernel / kernel.sum(), strict=True):
        matrix[np.arange(length), np.clip(np.arange(length) + offset, 0, length - 1)] += share
    return matrix


def _ranks(maps: jax.Array) -> jax.Array:
    """Returns the place [B, H, W] of each pixel among those of its map, in [0, 1): 0 is the strongest."""
    flat = maps.reshape(maps.shape[0], -1)
    order = jnp.argsort(-flat, axis=1, stable=True)
    ranks = jnp.argsort(order, axis=1) / flat.shape[1]
    return ranks.reshape(maps.shape)


def _curve(
    model: GroupedModel,
    variables: Variables,
    ends: tuple[jax.Array, jax.Array],
    classes: jax.Array,
    ranks: jax.Array,
    steps: int,
) -> jax.Array:
    before, after = ends

    def step(share: jax.Array) -> jax.Array:
        images = jnp.where((ranks < share)[..., None], after, before)
        probabilities = jax.nn.softmax(apply(model, variables, images))
        return jnp.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]

    return jax.lax.map(step, jnp.linspace(0, 1, steps + 1)).T


def by_cells(maps: np.ndarray | jax.Array, side: int) -> np.ndarray:
    """Returns maps [B, H, W] that are even within cells of that side, each the mean of its pixels.

    >>> by_cells(np.array([[[1.0, 3.0, 5.0, 7.0]] * 2]), 2)[0, 0].tolist()
    [2.0, 2.0, 6.0, 6.0]
    """
    values = np.asarray(maps)
    batch, height, width = values.shape
    means = values.reshape(batch, height // side, side, width // side, side).mean(axis=(2, 4))
    return means.repeat(side, axis=1).repeat(side, axis=2)


def center_map(height: int, width: int) -> np.ndarray:
    """Returns the map [H, W] that knows no image: the nearer to the centre, the stronger. What is useful beats it."""
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) ** 2 for length in (height, width))
    center: np.ndarray = np.exp(-rows[:, None] - columns[None])
    return center
