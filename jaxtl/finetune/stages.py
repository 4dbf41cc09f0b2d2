"""Stages: what trains changes in the course of a run, as in gradual unfreezing or "the head first, then all".

Where each stage begins and ends is a pure function of the step, so a checkpoint needs to hold no more than its step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.finetune.param_groups import FROZEN

Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]

_SINCE = " since "


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
      start: number of finished steps when it begins.
      stop: number of finished steps when it ends.
      labels: path of each parameter -> its group, or "frozen". A group that joins in a later stage is called
        "GROUP since STEP", so that leaves that began at different times never share an optimizer's counts.
      rate: factor on all learning rates.
      since: path of each trainable parameter -> the step at which it began to train.
    """

    start: int
    stop: int
    labels: Mapping[str, str]
    rate: float
    since: Mapping[str, int]


def group_of(label: str) -> str:
    """Gives the group that a label of a stage is of.

    >>> group_of("aux1 since 800")
    'aux1'
    """
    return label.partition(_SINCE)[0]


def make_stages(
    lengths: Sequence[int], labels: Sequence[Mapping[str, str]], rates: Sequence[float]
) -> tuple[Stage, ...]:
    """Returns the stages, one after the other.

    Args:
      lengths: steps of each.
      labels: of each: path -> group, or "frozen".
      rates: of each: factor on the learning rates.
    """
    stages: list[Stage] = []
    start, since = 0, dict[str, int]()
    for length, mapping, rate in zip(lengths, labels, rates, strict=True):
        since = {path: since.get(path, start) for path, label in mapping.items() if label != FROZEN}
        named = {path: f"{label}{_SINCE}{since[path]}" if since.get(path) else label for path, label in mapping.items()}
        stages.append(Stage(start, start + length, named, rate, since))
        start += length
    return tuple(stages)


def stage_of(stages: Sequence[Stage], step: int) -> Stage:
    """Returns the stage that took step number `step`; the first one before any step."""
    return next(stage for stage in stages if step <= stage.stop)


def staged_schedule(stages: Sequence[Stage], schedules: Sequence[Schedule], *, restart: bool) -> Schedule:
    """Returns step -> rate over the whole run.

    Args:
      stages: of the run.
      schedules: one for each stage, at its own pace; the same one for all unless `restart`.
      restart: whether a stage's schedule counts from the stage's start, or from the run's.
    """

    def schedule(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        rates = [
            stage.rate * shape(step - stage.start if restart else step)
            for stage, shape in zip(stages, schedules, strict=True)
        ]
        # Past the end the last rate stays.
        return jnp.select([step < stage.stop for stage in stages[:-1]], rates[:-1], rates[-1])

    return schedule if len(stages) > 1 else lambda step: stages[0].rate * schedules[0](step)
