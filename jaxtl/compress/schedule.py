"""How the share of zeros grows while a network trains."""

import jax
import jax.numpy as jnp


def cubic_sparsity(step: jax.Array | int, final: float, *, begin: int, end: int) -> jax.Array:
    """Returns the sparsity after a number of steps: 0 up to `begin`, `final` from `end` on, fast first and then slowly.

    It is that of Zhu and Gupta (https://arxiv.org/abs/1710.01878), final (1 - (1 - t) ** 3).

    Args:
      step: number of finished steps; it may be traced.
      final: the sparsity in the end, in [0, 1).
      begin: the step at which it begins to grow.
      end: the step from which it is all there, after `begin`.
    """
    progress = jnp.clip((step - begin) / (end - begin), 0.0, 1.0)
    return final * (1 - (1 - progress) ** 3)
