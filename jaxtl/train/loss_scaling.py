"""Dynamic loss scaling (https://arxiv.org/abs/1710.03740), for gradients computed in float16.

Small gradients underflow in float16, whose least normal number is 6e-5; times a large factor they do not. bfloat16 has
the exponents of float32, so neither of them needs any of this.
"""

import jax
import jax.numpy as jnp

Scaling = dict[str, jax.Array]

FLOAT16_SCALE = 2.0**15


def start(scale: float) -> Scaling:
    """Returns {"scale": float32 [], "streak": int32 []}; a power of two changes no digit of a gradient."""
    return {"scale": jnp.asarray(scale, jnp.float32), "streak": jnp.zeros((), jnp.int32)}


def update(scaling: Scaling, finite: jax.Array, *, window: int = 2000) -> Scaling:
    """Returns the scaling of the next step: half after an overflow, twice after `window` steps without one."""
    streak = scaling["streak"] + 1
    grows = finite & (streak >= window)
    scale = jnp.where(finite, scaling["scale"], jnp.maximum(scaling["scale"] / 2, 1.0))
    return {"scale": jnp.where(grows, scale * 2, scale), "streak": jnp.where(finite & ~grows, streak, 0)}
