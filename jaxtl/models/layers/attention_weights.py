"""Attention weights, for those who want to see them: a function that reads each layer's while a model is applied.

Models return what they compute and nothing else, and fused kernels have no weights to show. Whoever explains a model
applies it with the plain form of attention within `reading`. Elsewhere nothing is kept, and compiled programs are the
same to the letter.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import jax

Reader = Callable[[jax.Array], jax.Array]
"""Takes the weights of one layer, and returns those that the layer goes on with."""

_reader: ContextVar[Reader | None] = ContextVar("attention_reader", default=None)


@runtime_checkable
class FollowsAttention(Protocol):
    """A model that can tell through which layers of attention its head sees the image."""

    def roll_back(self, layers: Sequence[jax.Array]) -> jax.Array:
        """Follows what the head reads back to the image: of matrices A_1 to A_L, r (I + A_L) ... (I + A_1).

        Args:
          layers: a matrix for each layer, from input to head, float32 in the shape of its weights without the heads.

        Returns:
          Float32 [B, h, w], a number for each patch of the image, of size `image_size`.
        """
        ...


def read(weights: jax.Array) -> jax.Array:
    """Hands the weights of a layer, float32 [..., heads, queries, keys], to who reads them; returns those to use."""
    reader = _reader.get()
    return weights if reader is None else reader(weights)


@contextlib.contextmanager
def reading(reader: Reader) -> Iterator[None]:
    """Makes `reader` read the weights of models that are applied within, layer by layer."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)
