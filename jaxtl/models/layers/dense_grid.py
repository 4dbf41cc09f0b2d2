"""A dense layer over a grid of features: a convolution whose window is the whole grid."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.pooling import average_to_grid


class DenseGrid(nn.Module):
    """Maps a grid [B, side, side, C] to [B, features]; the kernel [side, side, C, features] keeps its places apart.

    Attributes:
      features: the width of what is returned.
      side: of the grid.
      average_first: other grids are averaged to `side` before (as in torchvision); else the window moves over a larger
        grid, and [B, h, w, features] is returned (as in timm).
      dtype: what is computed in.
    """

    multiplies_input: ClassVar[bool] = True

    features: int
    side: int
    average_first: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, features], or to [B, h, w, features] where the window moves."""
        if self.average_first or min(x.shape[1:3]) < self.side:
            x = average_to_grid(x, self.side)
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1, 2)), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if x.shape[1:3] == (self.side, self.side):
            y = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features) + bias[None]
            return y if self.average_first else y[:, None, None]
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias[None, None, None]
