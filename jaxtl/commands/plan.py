"""The plan of a run: what trains, at which rate, and when."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from jaxtl.train import groups as groups_lib
from jaxtl.train import optimizer as optimizer_lib
from jaxtl.train.schedules import make_schedule


@dataclass(frozen=True)
class Plan:
    """What trains and how.

    Attributes:
      assignment: path of each parameter -> its group, from input to head.
      labels: the same, with "frozen" where nothing trains.
      multipliers: path -> factor on the rate.
      shapes: path -> shape.
      schedule: step -> rate of the head.
      options: what `make_optimizer` takes besides.
      notes: what the user should know, one line each.
    """

    assignment: Mapping[str, str]
    labels: Mapping[str, str]
    multipliers: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    schedule: Callable[[Any], jax.Array]
    options: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of parameters: "total" and "trainable"."""
        sizes = {path: math.prod(shape) for path, shape in self.shapes.items()}
        trainable = sum(size for path, size in sizes.items() if self.labels[path] != groups_lib.FROZEN)
        return {"total": sum(sizes.values()), "trainable": trainable}

    def make_optimizer(self) -> optax.GradientTransformation:
        """Makes the optimizer of this plan."""
        return optimizer_lib.make_optimizer(
            self.labels, learning_rate=self.schedule, multipliers=self.multipliers, **self.options
        )


def make_plan(config: ConfigDict, module: nn.Module, params: Any, *, total_steps: int, new_head: bool) -> Plan:
    """Makes the plan that the config describes.

    Args:
      config: the config.
      module: a model of `jaxtl.models`, for its table of groups.
      params: its parameters, or their shapes.
      total_steps: number of steps of the run.
      new_head: whether the head is freshly initialised; it then trains whatever else does.

    Raises:
      UserError: a rule of finetune.unfreeze or finetune.lr_multipliers fits nothing.
    """
    table = module.groups()
    assignment = groups_lib.sort(groups_lib.assign(params, table), table)
    labels = groups_lib.select(assignment, config.finetune.unfreeze)
    notes = []
    if new_head and any(labels[path] == groups_lib.FROZEN for path, group in assignment.items() if group == "head"):
        labels |= {path: group for path, group in assignment.items() if group == "head"}
        notes.append(f"finetune.unfreeze {config.finetune.unfreeze!r} leaves out the head, which is new: it trains too")
    o = config.optimizer
    schedule = make_schedule(
        o.schedule,
        peak=o.learning_rate,
        total_steps=total_steps,
        warmup_steps=o.warmup_steps,
        end_factor=o.end_factor,
        boundaries=tuple(o.boundaries),
        factor=o.factor,
    )
    return Plan(
        assignment=assignment,
        labels=labels,
        multipliers=groups_lib.multipliers(
            assignment, layer_decay=config.finetune.layer_decay, rules=config.finetune.lr_multipliers
        ),
        shapes={path: tuple(leaf.shape) for path, leaf in groups_lib.flatten(params).items()},
        schedule=schedule,
        options={key: o[key] for key in ("name", "weight_decay", "momentum", "b1", "b2", "eps")},
        notes=tuple(notes),
    )
