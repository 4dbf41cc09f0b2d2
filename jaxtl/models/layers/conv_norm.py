"""A convolution, BatchNorm and ReLU, as the Inception networks repeat them."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.conv import convolve, max_pool
from jaxtl.models.layers.windows import mean_over_windows


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm and ReLU.

    Attributes:
      features: channels of what is returned.
      size: sides of the window.
      stride: of the window.
      padding: pixels at the top and bottom, and at the left and right.
      norm: fields of BatchNorm.
    """

    features: int
    size: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, h, w, features]."""
        x = nn.Conv(
            self.features,
            self.size,
            strides=(self.stride, self.stride),
            padding=[(pad, pad) for pad in self.padding],
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
        return BatchNorm(**self.norm, relu=True, name="bn")(x, use_running_average=not train)


def max_pool_3x3(x: jax.Array, train: bool, *, ceil: bool = False) -> jax.Array:
    """Takes the maximum over windows of 3 x 3 at stride 2; with `ceil` the last windows may reach over the edge."""
    pads = [(0, (side - 3) % 2 if ceil else 0) for side in x.shape[1:3]]
    return max_pool(x, pads, train)


def mean_pool_3x3(x: jax.Array, *, counts_padding: bool) -> jax.Array:
    """Averages windows of 3 x 3 at stride 1; at the edge over 9 with `counts_padding`, else over what is there."""
    return mean_over_windows(x, (3, 3), (1, 1), ((1, 1), (1, 1)), counts_padding=counts_padding)


def rows(sources: Sequence[str], targets: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of a key table for layers of this kind, named alike in the source but for the path."""
    return tuple(
        row
        for source, target in zip(sources, targets, strict=True)
        for row in ((f"{source}.conv", f"{target}/conv", "conv"), (f"{source}.bn", f"{target}/bn", "batchnorm"))
    )
