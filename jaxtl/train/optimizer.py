"""One optax transformation for the whole model: zero updates for what is frozen, an own rate for each other group."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jaxtl.train.groups import FROZEN, flatten, unflatten

Schedule = Callable[[jax.Array], jax.Array] | float

NAMES = ("adamw", "adam", "sgd", "rmsprop")


def make_optimizer(
    groups: Mapping[str, str],
    *,
    name: str = "adamw",
    learning_rate: Schedule = 1e-3,
    multipliers: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns `optax.multi_transform` over the groups; the label "frozen" gets `optax.set_to_zero`.

    Args:
      groups: path of each parameter -> its group, or "frozen" (see `groups.select`).
      name: one of NAMES.
      learning_rate: the rate of the head, a number or a function of the step.
      multipliers: path -> factor on the rate (see `groups.multipliers`); 1 where absent.
      weight_decay: decoupled (https://arxiv.org/abs/1711.05101): times the rate, past the gradient's scaling; not on
        parameters with one axis longer than 1 or none (biases, norms, tokens).
      momentum: of "sgd" and "rmsprop".
      b1: decay of the first moment of "adam" and "adamw".
      b2: decay of the second moment of "adam" and "adamw", and of "rmsprop".
      eps: the denominator's floor.

    Raises:
      ValueError: the name is none of NAMES.
    """
    if name not in NAMES:
        raise ValueError(f"unknown optimizer {name!r}; the optimizers are {', '.join(NAMES)}")
    factors = {path: 1.0 if multipliers is None else multipliers.get(path, 1.0) for path in groups}
    labels = {path: FROZEN if group == FROZEN else f"{group} x {factors[path]:.6g}" for path, group in groups.items()}
    rules = {label: factors[path] for path, label in labels.items() if label != FROZEN}

    def one(factor: float) -> optax.GradientTransformation:
        core = {
            "adamw": lambda: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            "adam": lambda: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            "sgd": lambda: optax.trace(decay=momentum) if momentum else optax.identity(),
            "rmsprop": lambda: optax.chain(
                optax.scale_by_rms(decay=b2, eps=eps), optax.trace(decay=momentum) if momentum else optax.identity()
            ),
        }[name]()
        decay = optax.add_decayed_weights(weight_decay, mask=decays) if weight_decay else optax.identity()
        return optax.chain(core, decay, optax.scale_by_learning_rate(_scaled(learning_rate, factor)))

    transforms = {FROZEN: optax.set_to_zero()} | {label: one(factor) for label, factor in rules.items()}
    return optax.multi_transform(transforms, lambda params: unflatten({path: labels[path] for path in flatten(params)}))


def decays(params: optax.Params) -> optax.Params:
    """Marks the parameters that weight decay shrinks: those with two axes or more that are longer than 1."""
    return jax.tree.map(lambda leaf: sum(size > 1 for size in jnp.shape(leaf)) > 1, params)


def _scaled(learning_rate: Schedule, factor: float) -> Schedule:
    if callable(learning_rate):
        return lambda step: factor * learning_rate(step)
    return factor * learning_rate
