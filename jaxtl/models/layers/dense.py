"""The dense layer in the form that the backend does fastest."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxtl.parallel.backend import backend


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies [..., C] with [C, features]."""
    return _multiply(x, kernel) if backend() == "cpu" else x @ kernel


@jax.custom_vjp
def _multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # JAX's own rule gives the kernel's gradient as (gradient^T x)^T, for which XLA on a CPU copies the gradient and the
    # result turned: 3 % of a step of ViT-S. A sum over several axes takes it as long again.
    columns, results = (rows.reshape(-1, rows.shape[-1]) for rows in (x, gradient))
    return gradient @ kernel.T, columns.T @ results


_multiply.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _backward)


def _dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    plain = dimensions == (((x.ndim - 1,), (0,)), ((), ())) and not any(options.values())
    return multiply(x, kernel) if plain else jax.lax.dot_general(x, kernel, dimensions, **options)


Dense = partial(nn.Dense, dot_general=_dot_general)
