"""The plan of a run: what trains, at which rate, and when."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxtl.compress.pruning import Pruning, prunable, prune_updates
from jaxtl.errors import UserError
from jaxtl.experiment import options
from jaxtl.experiment.sizes import stage_lengths
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import Schedule, Stage, make_stages, staged_schedule
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.scanned_state import factors_by_scanned, find_scanned, first_by_scanned, over_scanned
from jaxtl.train.schedules import make_schedule
from jaxtl.trees import flatten


@dataclass(frozen=True)
class Plan:
    """What trains and how.

    Attributes:
      assignment: path of each parameter -> its group, from input to head.
      stages: of the run, at least one.
      multipliers: path -> factor on the rate.
      shapes: path -> shape.
      schedule: step of the run -> rate of the head.
      options: of the optimizer; their rate is the schedule.
      overrides: path -> the options there, by a rule of finetune.groups.
      peaks: path -> the highest rate that such a rule gives, before the factor.
      notes: what the user should know, one line each.
      no_weight_decay: regexes of paths that weight decay leaves alone.
      pruning: which weights become zero, and when; None for none.
      scanned: names of the layers that its steps keep stacked (see `jaxtl.parallel.scanned_layers`).
    """

    assignment: Mapping[str, str]
    stages: tuple[Stage, ...]
    multipliers: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    schedule: Callable[[Any], jax.Array]
    options: OptimizerOptions
    overrides: Mapping[str, OptimizerOptions]
    peaks: Mapping[str, float]
    notes: tuple[str, ...]
    scanned: tuple[str, ...] = ()
    no_weight_decay: tuple[str, ...] = ()
    pruning: Pruning | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Path -> group, with "frozen" where nothing trains in any stage."""
        return {
            path: group if any(stage.labels[path] != FROZEN for stage in self.stages) else FROZEN
            for path, group in self.assignment.items()
        }

    @property
    def total_steps(self) -> int:
        """The number of steps of the run."""
        return self.stages[-1].stop

    @property
    def counts(self) -> dict[str, int]:
        """The number of parameters: "total", "trainable" and "frozen"; trainable is what trains in any stage."""
        total = self.count(self.assignment)
        trainable = self.count(path for path, label in self.labels.items() if label != FROZEN)
        return {"total": total, "trainable": trainable, "frozen": total - trainable}

    def count(self, paths: Iterable[str]) -> int:
        """Returns the number of parameters at these paths."""
        return sum(math.prod(self.shapes[path]) for path in paths)

    def peak(self, path: str, learning_rate: float) -> float:
        """Returns the highest rate of a parameter, in any stage, where the head's is `learning_rate`."""
        factor = max((stage.rate for stage in self.stages if path in stage.since), default=0.0)
        return self.peaks.get(path, learning_rate) * self.multipliers[path] * factor

    def make_optimizer(self, stage: Stage) -> optax.GradientTransformation:
        """Makes the optimizer of a stage, for parameters in the plan's stacks."""
        optimizer = make_optimizer(
            first_by_scanned(stage.labels, self.scanned),
            dataclasses.replace(self.options, learning_rate=self.schedule),
            multipliers=factors_by_scanned(self.multipliers, self.scanned),
            overrides=first_by_scanned(self.overrides, self.scanned),
            no_weight_decay=self.no_weight_decay,
        )
        if self.pruning is not None:
            optimizer = prune_updates(optimizer, self.pruning)
        return over_scanned(optimizer, self.scanned)


NO_PLAN = Plan({}, (), {}, {}, lambda step: jnp.zeros(()), OptimizerOptions(), {}, {}, ())
"""The plan of an experiment that trains nothing."""


def make_plan(config: ConfigDict, module: nn.Module, params: Any, *, steps_per_epoch: float, new_head: bool) -> Plan:
    """Makes the plan that the config describes.

    Args:
      config: the config.
      module: a model of `jaxtl.models`, for its table of groups.
      params: its parameters, or their shapes.
      steps_per_epoch: batches that hold as many examples as the training split.
      new_head: whether the head is freshly initialised; it then trains in every stage, whatever else does.

    Raises:
      UserError: a rule of finetune fits nothing, or the warm-up is longer than a stage.
    """
    table = module.groups()
    assignment = groups_lib.assign(params, table)
    specs = list(config.finetune.stages) or [{"unfreeze": config.finetune.unfreeze}]
    labels, notes = _labels(specs, assignment, new_head)
    lengths = stage_lengths(config, steps_per_epoch)
    stages = make_stages(lengths, labels, [spec.get("rate", 1.0) for spec in specs])
    f = config.finetune
    groups_lib.check_rules(f.groups, assignment, "finetune.groups")
    base = {key: config.optimizer[key] for key in config.optimizer}
    schedule = _run_schedule(base, stages, restart=f.restart_schedule, key="optimizer")
    rules = {}
    for rule, given in f.groups.items():
        merged = {**base, **given}
        rate = _run_schedule(merged, stages, restart=f.restart_schedule, key=f"finetune.groups[{rule!r}]")
        rules[rule] = options.optimizer(merged, rate)
    overrides, peaks = {}, {}
    for path, group in assignment.items():
        fitting = [rule for rule in rules if groups_lib.matches(rule, path, group)]
        if fitting:
            overrides[path] = rules[fitting[0]]
            peaks[path] = f.groups[fitting[0]].get("learning_rate", base["learning_rate"])
    # Of what the checkpoint's arrays depend on, nothing may change while a run stands still.
    exempt = module.no_weight_decay()
    facts = {
        path: (
            overrides.get(path),
            any(re.fullmatch(pattern, path) for pattern in exempt),
            *(stage.since.get(path) for stage in stages),
        )
        for path in assignment
    }
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    pruning = options.pruning(
        config, prunable(shapes, assignment, module.first_layer.removeprefix("params/")), assignment, stages[-1].stop
    )
    if pruning is not None:
        notes.append(_pruned_in_words(pruning, shapes))
    return Plan(
        assignment=assignment,
        stages=stages,
        multipliers=groups_lib.multipliers(
            assignment, layer_decay=f.layer_decay, rules=f.lr_multipliers, key="finetune.lr_multipliers"
        ),
        shapes=shapes,
        schedule=schedule,
        options=options.optimizer(base, schedule),
        overrides=overrides,
        peaks=peaks,
        notes=tuple(notes),
        scanned=find_scanned(module.alike(), facts) if config.model.scan else (),
        no_weight_decay=exempt,
        pruning=pruning,
    )


def _pruned_in_words(pruning: Pruning, shapes: Mapping[str, tuple[int, ...]]) -> str:
    count = sum(math.prod(shapes[path]) for path in pruning.paths)
    what = "two of each four inputs" if pruning.pattern else f"the smallest {pruning.sparsity:.3g} of {count:,} weights"
    when = f"up to step {pruning.end}, more and more of them" if pruning.end else "from the start"
    return f"{what} in {len(pruning.paths)} kernels are zero, {when}, and stay zero"


def _labels(
    specs: Sequence[Mapping[str, Any]], assignment: Mapping[str, str], new_head: bool
) -> tuple[list[dict[str, str]], list[str]]:
    """Returns the labels of each stage, and what is to be said about them."""
    labels, notes = [], []
    head = {path: group for path, group in assignment.items() if group == "head"}
    for number, spec in enumerate(specs, start=1):
        key = "finetune.unfreeze" if len(specs) == 1 else f"unfreeze of stage {number}"
        chosen = groups_lib.select(assignment, spec["unfreeze"], key=key)
        if new_head and any(chosen[path] == FROZEN for path in head):
            chosen |= head
            notes.append(f"{key} {spec['unfreeze']!r} leaves out the head, which is new: it trains too")
        labels.append(chosen)
    return labels, notes


def _run_schedule(values: Mapping[str, Any], stages: Sequence[Stage], *, restart: bool, key: str) -> Schedule:
    """Returns step of the run -> rate, for the values of optimizer or of a rule over them."""
    shortest = min(stage.stop - stage.start for stage in stages) if restart else stages[-1].stop
    if values["warmup_steps"] >= shortest:
        what = "its shortest stage" if restart and len(stages) > 1 else "the run"
        raise UserError(
            f"{key}.warmup_steps is {values['warmup_steps']}, but {what} has {shortest} steps: give fewer, "
            "as with --config.optimizer.warmup_steps=0, or train for more epochs."
        )
    schedules = [
        make_schedule(
            values["schedule"],
            peak=values["learning_rate"],
            total_steps=stage.stop - stage.start if restart else stages[-1].stop,
            warmup_steps=values["warmup_steps"],
            end_factor=values["end_factor"],
            boundaries=tuple(values["boundaries"]),
            factor=values["factor"],
        )
        for stage in stages
    ]
    return staged_schedule(stages, schedules, restart=restart)
