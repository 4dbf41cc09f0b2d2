"""Learning rates over time."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

NAMES = ("cosine", "linear", "constant", "step")


def make_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    end_factor: float = 0.0,
    boundaries: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """Returns step -> learning rate: a linear warm-up to `peak`, then the named shape.

    The warm-up's first step already learns (rate peak / warmup_steps), so no step is spent at rate zero.

    Args:
      name: "cosine" or "linear" (down to peak * end_factor at total_steps), "constant", or "step".
      peak: the highest rate.
      total_steps: number of steps of the whole run, warm-up included.
      warmup_steps: number of steps of the warm-up.
      end_factor: the last rate as a share of the peak, for "cosine" and "linear".
      boundaries: for "step": shares of total_steps at which the rate is multiplied by `factor`.
      factor: see boundaries.

    Raises:
      ValueError: the name is none of NAMES.
    """
    if name not in NAMES:
        raise ValueError(f"unknown schedule {name!r}; the schedules are {', '.join(NAMES)}")
    decay_steps = max(1, total_steps - warmup_steps)

    def shape(step: jax.Array) -> jax.Array:
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        if name == "cosine":
            return end_factor + (1 - end_factor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        if name == "linear":
            return 1 - (1 - end_factor) * progress
        if name == "step":
            passed = [(step >= round(at * total_steps)).astype(jnp.float32) for at in boundaries]
            return jnp.power(factor, sum(passed, jnp.zeros(())))
        return jnp.ones_like(progress)

    def schedule(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        return peak * jnp.minimum(1.0, (step + 1) / max(1, warmup_steps)) * shape(step)

    return schedule
