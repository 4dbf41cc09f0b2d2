"""Occlusion (Zeiler & Fergus 2014, https://arxiv.org/abs/1311.2901): what a grey patch over the image takes away."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.explain.target import Variables, apply, scores
from jaxtl.models.base import GroupedModel

# Of the side of the image: of 224 pixels 32.
_SHARE = 7


@partial(jax.jit, static_argnames=("model", "window", "stride"))
def occlusion(
    model: GroupedModel,
    variables: Variables,
    images: jax.Array,
    classes: jax.Array,
    *,
    window: int = 0,
    stride: int = 0,
) -> jax.Array:
    """Returns maps float32 [B, H, W]: by how much the logit falls under the patches that cover a pixel, on average.

    Args:
      model: the model.
      variables: of it.
      images: normalised, float32 [B, H, W, C]; zeros, the mean colour, are the patch.
      classes: their indices [B].
      window: the side of the patch; 0 for a seventh of the image's.
      stride: from one place to the next; 0 for half the side.
    """
    height, width = images.shape[1:3]
    window = window or max(min(height, width) // _SHARE, 1)
    corners = [_corners(length, window, stride or max(window // 2, 1)) for length in (height, width)]
    places = jnp.asarray([(top, left) for top in corners[0] for left in corners[1]])
    whole = scores(model, apply(model, variables, images), classes)

    def step(sums: tuple[jax.Array, jax.Array], place: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        falls, count = sums
        rows = (jnp.arange(height) >= place[0]) & (jnp.arange(height) < place[0] + window)
        columns = (jnp.arange(width) >= place[1]) & (jnp.arange(width) < place[1] + window)
        covered = (rows[:, None] & columns[None]).astype(images.dtype)
        left = scores(model, apply(model, variables, images * (1 - covered)[None, :, :, None]), classes)
        return (falls + (whole - left)[:, None, None] * covered[None], count + covered), None

    zeros = jnp.zeros(images.shape[:3]), jnp.zeros((height, width))
    (falls, count), _ = jax.lax.scan(step, zeros, places)
    return jax.nn.relu(falls / count[None])


def _corners(length: int, window: int, stride: int) -> list[int]:
    """Returns where patches begin, spread evenly, so that each pixel is covered and none is beyond the edge.

    >>> _corners(10, 4, 2), _corners(10, 4, 4)
    ([0, 2, 4, 6], [0, 3, 6])
    """
    last = max(length - window, 0)
    return np.linspace(0, last, -(-last // stride) + 1).round().astype(int).tolist()
