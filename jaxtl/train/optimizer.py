"""One optax transformation for the whole model: zero updates for what is frozen, an own rate for each other group."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.finetune.param_groups import FROZEN, flatten, unflatten
from jaxtl.parallel.scanned_layers import is_scanned

Schedule = Callable[[jax.Array], jax.Array] | float

NAMES = ("adamw", "adam", "sgd", "rmsprop")


def make_optimizer(
    groups: Mapping[str, str],
    *,
    name: str = "adamw",
    learning_rate: Schedule = 1e-3,
    multipliers: Mapping[str, float | tuple[float, ...]] | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> optax.GradientTransformation:
    """Returns `optax.multi_transform` over the groups; the label "frozen" gets `optax.set_to_zero`.

    Args:
      groups: path of each parameter -> its group, or "frozen" (see `groups.select`).
      name: one of NAMES.
      learning_rate: the rate of the head, a number or a function of the step.
      multipliers: path -> factor on the rate (see `groups.multipliers`), or one for each block of a stack; 1 where
        absent.
      weight_decay: decoupled (https://arxiv.org/abs/1711.05101): times the rate, past the gradient's scaling; not on
        parameters with one axis longer than 1 or none (biases, norms, tokens).
      momentum: of "sgd" and "rmsprop".
      b1: decay of the first moment of "adam" and "adamw".
      b2: decay of the second moment of "adam" and "adamw", and of "rmsprop".
      eps: the denominator's floor.
      overrides: path -> what replaces any of name, learning_rate, weight_decay, momentum, b1, b2 and eps there.

    Raises:
      ValueError: a name is none of NAMES.
    """
    base = {
        "name": name,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "b1": b1,
        "b2": b2,
        "eps": eps,
    }
    labels, transforms = {}, {FROZEN: optax.set_to_zero()}
    numbers: dict[int, int] = {}
    for path, group in groups.items():
        other = (overrides or {}).get(path)
        # Counted over frozen leaves too: a label is then the same in every stage of a run.
        number = numbers.setdefault(id(other), len(numbers) + 1) if other else 0
        factor = 1.0 if multipliers is None else multipliers.get(path, 1.0)
        label = f"{group} x {_written(factor)}" + (f" by rule {number}" if number else "")
        labels[path] = FROZEN if group == FROZEN else label
        if group != FROZEN and label not in transforms:
            transforms[label] = _transform(factor, **{**base, **(other or {})})
    return optax.multi_transform(transforms, lambda params: unflatten({path: labels[path] for path in flatten(params)}))


def decays(params: optax.Params) -> optax.Params:
    """Marks the parameters that weight decay shrinks: those with two axes or more that are longer than 1.

    The axis of a stack does not count.
    """

    def decays_one(path, leaf):
        own = jnp.shape(leaf)[1:] if is_scanned(path) else jnp.shape(leaf)
        return sum(size > 1 for size in own) > 1

    return jax.tree_util.tree_map_with_path(decays_one, params)


def _written(factor: float | tuple[float, ...]) -> str:
    return " ".join(f"{one:.6g}" for one in (factor if isinstance(factor, tuple) else (factor,)))


def _transform(
    factor: float | tuple[float, ...],
    *,
    name: str,
    learning_rate: Schedule,
    weight_decay: float,
    momentum: float,
    b1: float,
    b2: float,
    eps: float,
) -> optax.GradientTransformation:
    """Returns the transformation of one group."""
    if name not in NAMES:
        raise ValueError(f"unknown optimizer {name!r}; the optimizers are {', '.join(NAMES)}")
    velocity = optax.trace(decay=momentum) if momentum else optax.identity()
    core = {
        "adamw": optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        "adam": optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        "sgd": velocity,
        "rmsprop": optax.chain(optax.scale_by_rms(decay=b2, eps=eps), velocity),
    }[name]
    decay = optax.add_decayed_weights(weight_decay, mask=decays) if weight_decay else optax.identity()
    return optax.chain(core, decay, _scale_by_rate(learning_rate, factor))


def _scale_by_rate(learning_rate: Schedule, factor: float | tuple[float, ...]) -> optax.GradientTransformation:
    """Returns the transformation to -factor * rate * update; the rate is that of `step`, or of an own count.

    Several factors are those of the blocks of a stack.
    """
    factors = np.asarray(factor, np.float32) if isinstance(factor, tuple) else factor
    if not callable(learning_rate):
        return optax.stateless(lambda updates, _: jax.tree.map(lambda u: _scaled(u, -factors * learning_rate), updates))

    def update(updates, state, params=None, *, step=None, **_):
        del params
        scale = -factors * learning_rate(state.count if step is None else step)
        updates = jax.tree.map(lambda u: _scaled(u, scale), updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
    )


def _scaled(update: jax.Array, scale: Any) -> jax.Array:
    """Returns an update times a number, or each of its rows times its own."""
    scale = jnp.asarray(scale).astype(update.dtype)
    return scale.reshape(-1, *(1,) * (update.ndim - 1)) * update if scale.ndim else scale * update
