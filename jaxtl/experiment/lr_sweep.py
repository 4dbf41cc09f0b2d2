"""The learning-rate range test of a run: the sweep of `lr_find`, and a cheap check before training."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.input_pipeline import Inputs
from jaxtl.experiment.steps import Step, make_state, make_step
from jaxtl.experiment.training_plan import Plan
from jaxtl.train import lr_range_test
from jaxtl.train.optimizer import OptimizerOptions
from jaxtl.train.scanned_state import first_by_scanned, with_scanned

# Steps of the cheap check before training, and how far above the point of divergence is worth a warning.
_CHECK_STEPS, _FAR = 10, 10.0


@dataclass(frozen=True)
class Sweep:
    """A sweep: its steps, the rates of the head from the first to the last, and whether each group has one alone."""

    steps: int = 100
    low: float = 1e-7
    high: float = 10.0
    per_group: bool = False


def run_sweep(
    experiment: Experiment, inputs: Inputs, variables: Mapping[str, Any], given: Sweep
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sweeps the first stage of a plan on a copy of its first state; returns name -> (rates [n], losses [n]).

    A new head is zero there: one that fits its features already has a loss that no rate makes fall.
    """
    plan = experiment.plan
    stage = plan.stages[0]
    rate = lr_range_test.exponential(given.low, given.high, given.steps)
    swept = _swept(plan, rate, experiment.config.optimizer.learning_rate, per_group=given.per_group)
    # Whatever the config says: all batches of a chunk lie on the devices at once.
    partitioner = with_scanned(options.partitioner(experiment.config, "jit"), swept.scanned)
    optimizer = swept.make_optimizer(stage)
    sweeping = dataclasses.replace(experiment, plan=swept, partitioner=partitioner)

    def masked_step(masks: Mapping[str, jax.Array]) -> Step:
        masked = lr_range_test.masked(optimizer, first_by_scanned(plan.assignment, swept.scanned), masks)
        return make_step(sweeping, stage, masked, module=inputs.model, cached=inputs.cached)

    losses = lr_range_test.sweep(
        masked_step,
        partitioner.shard_state(make_state(sweeping, stage, optimizer, variables)),
        lambda: map(partitioner.shard_batch, inputs.batches(0)),
        steps=given.steps,
        masks=lr_range_test.masks_for(plan.assignment, stage.labels, per_group=given.per_group),
    )
    rates = np.asarray(rate(np.arange(given.steps)), np.float64)
    return {name: (rates[: len(values)], values) for name, values in losses.items()}


def warn(experiment: Experiment, inputs: Inputs, variables: Mapping[str, Any]) -> None:
    """Prints a warning if the configured rate is over ten times the one at which a short sweep diverges."""
    chosen = experiment.config.optimizer.learning_rate
    # No further than the question needs: what diverges only above a tenth of the chosen rate is no reason to warn.
    short = Sweep(steps=_CHECK_STEPS, low=chosen / 1e5, high=chosen / _FAR)
    rates, losses = run_sweep(experiment, inputs, variables, short)["all"]
    limit = lr_range_test.suggest(rates, losses).get("diverges")
    if limit is not None:
        print(
            f"optimizer.learning_rate is {chosen:g}, but a short sweep diverged at {limit:.2g} already: lower it, or "
            "see `lr_find`."
        )


def _swept(plan: Plan, rate: Any, base: float, *, per_group: bool) -> Plan:
    """Returns the plan with the sweep as its schedule; rules with a rate of their own keep their proportion to it."""
    replaced: dict[OptimizerOptions, OptimizerOptions] = {}
    overrides = {}
    for path, given in plan.overrides.items():
        factor = plan.peaks[path] / base
        # Paths of one rule go on sharing one schedule, and so one transformation.
        if given not in replaced:
            replaced[given] = dataclasses.replace(given, learning_rate=_times(factor, rate))
        overrides[path] = replaced[given]
    # The groups within a stack could not be swept one by one.
    scanned = () if per_group else plan.scanned
    return dataclasses.replace(plan, schedule=rate, overrides=overrides, scanned=scanned)


def _times(factor: float, rate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda step: factor * rate(step)
