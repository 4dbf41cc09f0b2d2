"""L-BFGS for losses whose curvature is about 1: the solver of linear probes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def minimise(loss: Callable[[jax.Array], jax.Array], start: jax.Array, *, steps: int, memory: int) -> jax.Array:
    """Returns the array of the least loss that so many steps of L-BFGS came by.

    The curvature of the loss is about 1 in every direction, or less, so steps of length 1 descend, and a line search
    would cost more than it gains.

    Args:
      loss: array -> scalar, smooth and convex.
      start: where to begin.
      steps: their number.
      memory: how many differences of gradients are kept; each costs time, and under vmap most of it.
    """
    solver = optax.lbfgs(learning_rate=1.0, linesearch=None, memory_size=memory)

    def body(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        point, state, least, best = carry
        value, gradient = jax.value_and_grad(loss)(point)
        # Of losses that differ by rounding alone, the latest is the nearest to the minimum.
        best = jnp.where(value <= least + 1e-6 * abs(least), point, best)
        updates, state = solver.update(gradient, state, point)
        return (optax.apply_updates(point, updates), state, jnp.minimum(value, least), best), None

    carry = start, solver.init(start), jnp.inf, start
    (_, _, _, best), _ = jax.lax.scan(body, carry, None, length=steps)
    found: jax.Array = best
    return found
