"""The learning-rate range test of a run: the sweep of `lr_find`, and a cheap check before training."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl.experiment import setup
from jaxtl.experiment import steps as steps_lib
from jaxtl.experiment.input_pipeline import Inputs
from jaxtl.experiment.training_plan import Plan
from jaxtl.train import lr_range_test
from jaxtl.train.losses import Loss
from jaxtl.train.optimizer import OptimizerOptions
from jaxtl.train.scanned_state import first_by_scanned, with_scanned

# Steps of the cheap check before training, and how far above the point of divergence is worth a warning.
_CHECK_STEPS, _FAR = 10, 10.0


def sweep(
    config: ConfigDict,
    model: setup.Model,
    plan: Plan,
    loss: Loss,
    inputs: Inputs,
    variables: Mapping[str, Any],
    *,
    steps: int,
    low: float,
    high: float,
    per_group: bool = False,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sweeps the first stage of a plan on a copy of its first state; returns name -> (rates [n], losses [n])."""
    stage = plan.stages[0]
    rate = lr_range_test.exponential(low, high, steps)
    swept = _swept(plan, rate, config.optimizer.learning_rate, per_group=per_group)
    partitioner = with_scanned(setup.partitioner_for(config, "jit"), swept.scanned)
    optimizer = swept.make_optimizer(stage)

    def make_step(masks):
        moving = lr_range_test.masked(optimizer, first_by_scanned(plan.assignment, swept.scanned), masks)
        return steps_lib.make_step(
            config, model, swept, stage, optimizer=moving, loss=loss, module=inputs.model, cached=inputs.cached
        )

    losses = lr_range_test.sweep(
        make_step,
        partitioner.shard_state(steps_lib.make_state(config, variables, stage, optimizer)),
        lambda: map(partitioner.shard_batch, inputs.batches(0)),
        steps=steps,
        masks=lr_range_test.masks_for(plan.assignment, stage.labels, per_group=per_group),
    )
    rates = np.asarray(rate(np.arange(steps)), np.float64)
    return {name: (rates[: len(values)], values) for name, values in losses.items()}


def warn(config: ConfigDict, *parts: Any) -> None:
    """Prints a warning if the configured rate is over ten times the one at which a short sweep diverges.

    Args:
      config: the config.
      parts: model, plan, loss, inputs and variables, as `sweep` takes them.
    """
    chosen = config.optimizer.learning_rate
    # No further than the question needs: what diverges only above a tenth of the chosen rate is no reason to warn.
    rates, losses = sweep(config, *parts, steps=_CHECK_STEPS, low=chosen / 1e5, high=chosen / _FAR)["all"]
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
