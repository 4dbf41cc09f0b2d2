"""Weight standardisation, https://arxiv.org/abs/1903.10520: convolutions whose kernels have mean 0 and deviation 1."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.conv import convolve


class StandardizedConv(nn.Module):
    """A convolution without bias that standardises its kernel for each output channel.

    Attributes:
      padding: a number of zeros on every side, or "SAME" as TensorFlow has it.
      epsilon: added to the variance, or to the deviation where `epsilon_on_deviation`; Google's code has both.
    """

    multiplies_input: ClassVar[bool] = True

    features: int
    size: int
    stride: int = 1
    padding: int | str = 0
    epsilon: float = 1e-10
    epsilon_on_deviation: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.variance_scaling(2.0, "fan_out", "normal"), shape)
        kernel = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
        variance = jnp.square(kernel).mean(axis=(0, 1, 2), keepdims=True)
        if self.epsilon_on_deviation:
            kernel = kernel / (jnp.sqrt(variance) + self.epsilon)
        else:
            kernel = kernel * jax.lax.rsqrt(variance + self.epsilon)
        return convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            self.padding if isinstance(self.padding, str) else [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
