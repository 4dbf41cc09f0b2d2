"""Convolution and max pooling in the form that the backend does fastest."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = str | Sequence[tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, C, features]; the options are those of `jax.lax.conv_general_dilated`."""
    padded = not isinstance(padding, str) and any(map(any, padding))
    if jax.default_backend() != "cpu" or kernel.shape[:2] != (1, 1) or padded:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    # A convolution of one pixel is a matrix product, for which a CPU takes half the time, and for its gradients too.
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def max_pool(x: jax.Array, padding: Padding, train: bool) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows of 3 x 3 at stride 2; `train` if it will be differentiated."""
    if not train or jax.default_backend() != "cpu":
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)
    # Its gradient takes a CPU nine times as long as that of nine slices and their comparisons.
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    height, width = ((side - 3) // 2 + 1 for side in x.shape[1:3])
    parts = [x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)]
    # Of equal ones the first counts, as in the gradient of max pooling.
    return functools.reduce(lambda best, part: jnp.where(part > best, part, best), parts)
