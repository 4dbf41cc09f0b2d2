"""The patch embedding of Transformers."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchEmbed(nn.Module):
    """Cuts images into square patches and projects each: a convolution whose stride is its kernel size."""

    multiplies_input: ClassVar[bool] = True

    patch: int
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    use_bias: bool = True

    def setup(self) -> None:
        """Makes the dropout a part of this module, so that it is off where the embedding is frozen."""
        self.drop = nn.Dropout(self.dropout)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to tokens [B, H/P * W/P, D], row by row."""
        batch, height, width, channels = images.shape
        p = self.patch
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, channels, self.width))
        # A matrix product, since a convolution of this shape is slow on a CPU and its gradient slower.
        x = images.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels)
        x = x.swapaxes(2, 3).reshape(batch, (height // p) * (width // p), p * p * channels)
        x = x @ kernel.astype(self.dtype).reshape(p * p * channels, self.width)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return x + bias.astype(self.dtype)[None, None]
