"""Penalties on the size of chosen weights, added to the loss: unlike weight decay they pass through the optimizer."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxtl.finetune.param_groups import FROZEN, check_rules, matches
from jaxtl.train.state import Leaves

Penalty: TypeAlias = Callable[[Leaves], jax.Array]


def size_penalty(leaves: Leaves, *, l1: Mapping[str, float], l2: Mapping[str, float]) -> jax.Array:
    """Returns the sum of l1 * |w| and l2 * w ** 2 over the leaves, float32 [].

    Args:
      leaves: trainable leaves by path.
      l1: path -> factor; a path that is absent has none.
      l2: likewise.
    """
    total = jnp.zeros((), jnp.float32)
    for path, leaf in leaves.items():
        if path in l1:
            total += l1[path] * jnp.abs(leaf).sum()
        if path in l2:
            total += l2[path] * jnp.square(leaf).sum()
    return total


def make_penalty(
    labels: Mapping[str, str],
    assignment: Mapping[str, str],
    *,
    l1: Mapping[str, float] | None = None,
    l2: Mapping[str, float] | None = None,
) -> Penalty | None:
    """Returns leaves -> penalty for rules {regex: factor}, or None without rules; factors of several rules add up.

    Args:
      labels: path -> its group, or "frozen": frozen leaves are not punished for what they cannot change.
      assignment: path -> its group, as `param_groups.assign` gave it.
      l1: factors on the absolute values.
      l2: factors on the squares.

    Raises:
      UnmatchedRules: a rule fits nothing.
    """
    l1, l2 = dict(l1 or {}), dict(l2 or {})
    if not l1 and not l2:
        return None
    check_rules(l1, assignment, "l1")
    check_rules(l2, assignment, "l2")

    def by_path(rules: Mapping[str, float]) -> dict[str, float]:
        factors = {
            path: sum(factor for rule, factor in rules.items() if matches(rule, path, group))
            for path, group in assignment.items()
            if labels[path] != FROZEN
        }
        return {path: factor for path, factor in factors.items() if factor}

    first, second = by_path(l1), by_path(l2)
    return lambda leaves: size_penalty(leaves, l1=first, l2=second)
