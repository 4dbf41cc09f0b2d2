"""GELU, https://arxiv.org/abs/1606.08415, exact or by its approximations, after a bias."""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.parallel.backend import backend

# Of formula 26.2.17 in Abramowitz and Stegun, Handbook of Mathematical Functions: at most 7.5e-8 off.
_SLOPE = 0.2316419
_POLYNOMIAL = (0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429)


def biased_gelu(x: jax.Array, bias: jax.Array, kind: str) -> jax.Array:
    """Gives GELU of x [..., D] plus the bias [D]; `kind` is one of `KINDS`."""
    if backend() == "gpu" and x.dtype in (jnp.bfloat16, jnp.float16):
        return _in_float32(x, bias.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + bias.shape), kind)
    x = x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)
    return KINDS[kind](x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """Gives x times the normal distribution function of x."""
    # Flax goes by way of erfc, which keeps relative precision far below zero, where the product vanishes all the same;
    # erf saves a CPU a tenth of a whole training step.
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def quick_gelu(x: jax.Array) -> jax.Array:
    """Gives the approximation of CLIP's own code, x times a logistic function of x."""
    return x * nn.sigmoid(1.702 * x)


KINDS: Mapping[str, Callable[[jax.Array], jax.Array]] = {"exact": exact_gelu, "tanh": nn.gelu, "quick": quick_gelu}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _in_float32(x: jax.Array, bias: jax.Array, kind: str) -> jax.Array:
    """The same in 16 bits, with what lies between in 32: one pass there, and one back, which computes it again.

    The bias is added here, where it costs nothing: a product that adds it takes cuBLAS a quarter longer.
    """
    wide = x.astype(jnp.float32) + bias
    return _wide(kind)(wide).astype(x.dtype)


def _backward(kind: str, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The barrier keeps XLA from taking float32 numbers over from the way there, and so from writing them.
    x, bias = jax.lax.optimization_barrier(saved)
    wide = x.astype(jnp.float32) + bias
    (change,) = jax.vjp(_wide(kind), wide)[1](gradient.astype(jnp.float32))
    change = change.astype(x.dtype)
    # A sum in 16 bits, as of any bias: for one in 32, XLA would write the float32 numbers between the two passes.
    total = jax.lax.reduce(change, jnp.zeros((), x.dtype), jax.lax.add, tuple(range(x.ndim - 1)))
    return change, total.astype(jnp.float32).reshape(bias.shape)


_in_float32.defvjp(lambda x, bias, kind: (_in_float32(x, bias, kind), (x, bias)), _backward)


def _wide(kind: str) -> Callable[[jax.Array], jax.Array]:
    return _fast_gelu if kind == "exact" else KINDS[kind]


@jax.custom_jvp
def _fast_gelu(x: jax.Array) -> jax.Array:
    """Exact GELU in float32 with one exponential, where erf and its derivative are most of a GPU's arithmetic."""
    size = jnp.abs(x)
    return jnp.maximum(x, 0) - size * _tail(size, _density(x))


@_fast_gelu.defjvp
def _tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    density = _density(x)
    tail = _tail(jnp.abs(x), density)
    return _fast_gelu(x), (jnp.where(x >= 0, 1 - tail, tail) + x * density) * tangent


def _density(x: jax.Array) -> jax.Array:
    return 0.3989422804014327 * jnp.exp(-0.5 * jnp.square(x))


def _tail(size: jax.Array, density: jax.Array) -> jax.Array:
    """The probability of a normal variable above `size`, which is not negative."""
    # A GPU has an instruction for 1 / sqrt, and divides in several.
    t = jax.lax.rsqrt(jnp.square(1 + _SLOPE * size))
    tail = jnp.zeros_like(size)
    for factor in reversed(_POLYNOMIAL):
        tail = (tail + factor) * t
    return tail * density
