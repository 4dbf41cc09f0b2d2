"""Squeeze-and-excitation, and the activations of the small networks that use it."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.parallel.backend import backend


def relu6(x: jax.Array) -> jax.Array:
    """Cuts off below 0 and above 6; at either the gradient is 0, as in PyTorch."""
    if backend() == "none":  # jax2onnx knows no clamp of a batch of any size.
        return jnp.minimum(jnp.maximum(x, 0), jnp.full((), 6, x.dtype))
    # That of jnp.clip shares it between what is equal there, which takes a CPU as long as the layer's normalisation.
    return jax.lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Gives relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """Gives x relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": relu6,
    "swish": nn.silu,
    "hard_swish": hard_swish,
}
GATES: Mapping[str, Callable[[jax.Array], jax.Array]] = {"sigmoid": nn.sigmoid, "hard_sigmoid": hard_sigmoid}


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole map holds, https://arxiv.org/abs/1709.01507."""

    features: int
    activation: str
    gate: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        y = x.mean(axis=(1, 2))
        y = ACTIVATIONS[self.activation](nn.Dense(self.features, dtype=self.dtype, name="reduce")(y))
        y = GATES[self.gate](nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(y))
        return x * y[:, None, None]


def divisible(width: float) -> int:
    """Rounds a number of channels to a multiple of 8, and not below nine tenths of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
