"""One optax transformation for the whole model: zero updates for frozen groups, a rate of its own for each other."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxtl.finetune.param_groups import FROZEN
from jaxtl.parallel.scanned_layers import blocks_of, is_scanned
from jaxtl.trees import KeyPath, flatten, nest

Schedule: TypeAlias = Callable[[jax.Array], jax.Array] | float


@dataclass(frozen=True)
class OptimizerOptions:
    """An optimizer and its numbers.

    Attributes:
      name: one of NAMES.
      learning_rate: a number or a function of the step.
      weight_decay: decoupled (https://arxiv.org/abs/1711.05101): times the rate, past the gradient's scaling; not on
        parameters with one axis longer than 1 or none (biases, norms, tokens).
      momentum: of "sgd" and "rmsprop".
      b1: decay of the first moment of "adam" and "adamw".
      b2: decay of the second moment of "adam" and "adamw", and of "rmsprop".
      eps: the denominator's floor.
    """

    name: str = "adamw"
    learning_rate: Schedule = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Kind:
    """An optimizer by what scales its gradients; the rate and the weight decay follow it and are all optimizers'.

    Attributes:
      reads: which of `OptimizerOptions` it reads, besides name, learning_rate and weight_decay.
      scale: options -> the transformation of the gradients.
    """

    reads: tuple[str, ...]
    scale: Callable[[OptimizerOptions], optax.GradientTransformation]


def _adam(options: OptimizerOptions) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)


def _velocity(options: OptimizerOptions) -> optax.GradientTransformation:
    return optax.trace(decay=options.momentum) if options.momentum else optax.identity()


def _rmsprop(options: OptimizerOptions) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_rms(decay=options.b2, eps=options.eps), _velocity(options))


KINDS = {
    "adamw": Kind(("b1", "b2", "eps"), _adam),
    "adam": Kind(("b1", "b2", "eps"), _adam),
    "sgd": Kind(("momentum",), _velocity),
    "rmsprop": Kind(("momentum", "b2", "eps"), _rmsprop),
}
NAMES = tuple(KINDS)


def make_optimizer(
    groups: Mapping[str, str],
    options: OptimizerOptions = OptimizerOptions(),
    *,
    multipliers: Mapping[str, float | tuple[float, ...]] | None = None,
    overrides: Mapping[str, OptimizerOptions] | None = None,
    no_weight_decay: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Returns `optax.multi_transform` over the groups; the label "frozen" gets `optax.set_to_zero`.

    Args:
      groups: path of each parameter -> its group, or "frozen" (see `param_groups.select`).
      options: of all parameters without an override; its rate is that of the head.
      multipliers: path -> factor on the rate (see `param_groups.multipliers`), or one for each block of a stack; 1
        where absent.
      overrides: path -> the options there. Paths with equal options share a label, numbered as they come in `groups`.
      no_weight_decay: regular expressions; a parameter whose whole path fits one is not decayed, whatever its shape.

    Raises:
      ValueError: a name is none of NAMES; or, once parameters are given, a rule fits some blocks of a stack only.
    """
    overrides = overrides or {}
    labels, transforms = {}, {FROZEN: optax.set_to_zero()}
    numbers: dict[OptimizerOptions, int] = {}
    for path, group in groups.items():
        other = overrides.get(path)
        # Counted over frozen leaves too: a label is then the same in every stage of a run, and checkpoints know it.
        number = 0 if other is None else numbers.setdefault(other, len(numbers) + 1)
        factor = 1.0 if multipliers is None else multipliers.get(path, 1.0)
        label = f"{group} x {_written(factor)}" + (f" by rule {number}" if number else "")
        labels[path] = FROZEN if group == FROZEN else label
        if group != FROZEN and label not in transforms:
            transforms[label] = _transform(other or options, factor, no_weight_decay)
    return optax.multi_transform(transforms, lambda params: nest({path: labels[path] for path in flatten(params)}))


def decays(params: optax.Params, exempt: Sequence[str] = ()) -> optax.Params:
    """Marks the parameters that weight decay shrinks: those with two axes or more that are longer than 1.

    The axis of a stack does not count.

    Args:
      params: nested parameters, or their shapes.
      exempt: regular expressions; what fits one with its whole path is not marked.

    Raises:
      ValueError: a rule fits some blocks of a stack, but not all.
    """
    rules = [re.compile(rule) for rule in exempt]

    def decays_one(path: KeyPath, leaf: ArrayLike) -> bool:
        own = jnp.shape(leaf)[1:] if is_scanned(path) else jnp.shape(leaf)
        return sum(size > 1 for size in own) > 1 and not _fits(rules, path)

    return jax.tree_util.tree_map_with_path(decays_one, params)


def _fits(rules: Sequence[re.Pattern[str]], path: KeyPath) -> bool:
    """Tells whether a rule fits a whole path; that of a stack stands for those of its blocks."""
    name, _, rest = jax.tree_util.keystr(tuple(path), simple=True, separator="/").partition("/")
    paths = [f"{block}/{rest}" for block in blocks_of(name)] or [f"{name}/{rest}" if rest else name]
    fits = {path: any(rule.fullmatch(path) for rule in rules) for path in paths}
    if len(set(fits.values())) > 1:
        apart = ", ".join(path for path, fit in fits.items() if fit)
        raise ValueError(f"no_weight_decay fits {apart}, but not all of the scanned layers {name}: give rules that do")
    return fits[paths[0]]


def _written(factor: float | tuple[float, ...]) -> str:
    return " ".join(f"{one:.6g}" for one in (factor if isinstance(factor, tuple) else (factor,)))


def _transform(
    options: OptimizerOptions, factor: float | tuple[float, ...], no_weight_decay: Sequence[str]
) -> optax.GradientTransformation:
    """Returns the transformation of one group."""
    if options.name not in KINDS:
        raise ValueError(f"unknown optimizer {options.name!r}; the optimizers are {', '.join(NAMES)}")
    decay = optax.identity()
    if options.weight_decay:
        decay = optax.add_decayed_weights(options.weight_decay, mask=lambda params: decays(params, no_weight_decay))
    return optax.chain(KINDS[options.name].scale(options), decay, _scale_by_rate(options.learning_rate, factor))


def _scale_by_rate(learning_rate: Schedule, factor: float | tuple[float, ...]) -> optax.GradientTransformation:
    """Returns the transformation to -factor * rate * update; the rate is that of `step`, or of a count of its own.

    Several factors are those of the blocks of a stack.
    """
    factors = np.asarray(factor, np.float32) if isinstance(factor, tuple) else factor
    if not callable(learning_rate):
        return optax.stateless(lambda updates, _: jax.tree.map(lambda u: _scaled(u, -factors * learning_rate), updates))

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
        *,
        step: jax.Array | None = None,
        **_: object,
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        del params
        scale = -factors * learning_rate(state.count if step is None else step)
        updates = jax.tree.map(lambda u: _scaled(u, scale), updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
    )


def _scaled(update: jax.Array, scale: ArrayLike) -> jax.Array:
    """Returns an update times a number, or each of its rows times its own."""
    factor = jnp.asarray(scale).astype(update.dtype)
    return update * (factor.reshape(-1, *(1,) * (update.ndim - 1)) if factor.ndim else factor)
