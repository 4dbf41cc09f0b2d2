"""The lr_find command: sweeps the learning rate over the first batches, and suggests one."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl.commands import arguments as flags
from jaxtl.commands import recipe, setup
from jaxtl.commands import workdir as files
from jaxtl.commands.inputs import Inputs, make_inputs
from jaxtl.commands.parts import open_parts
from jaxtl.commands.plan import Plan
from jaxtl.evaluate.plot import plot_rates
from jaxtl.train import lr_find
from jaxtl.train.losses import Loss
from jaxtl.train.stacking import first_by_stack, with_stacks

LOW, HIGH = 1e-7, 10.0
# Steps of the cheap check before training, and how far above the point of divergence is worth a warning.
_CHECK_STEPS, _FAR = 10, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where lr_find.json and the plot go; nothing in it changes otherwise")
    parser.add_argument("--per-group", action="store_true", help="sweep each group that trains, the others at rest")
    parser.add_argument("--steps", type=int, default=100, help="steps of a sweep (100)")
    parser.add_argument("--low", type=float, default=LOW, help=f"first rate of the head ({LOW:g})")
    parser.add_argument("--high", type=float, default=HIGH, help=f"last rate of the head ({HIGH:g})")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    config = flags.load_config(arguments, overrides)
    options = {key: getattr(arguments, key) for key in ("steps", "low", "high", "per_group")}
    run(config, arguments.workdir, **options)


def run(
    config: ConfigDict,
    workdir: Path,
    *,
    steps: int = 100,
    low: float = LOW,
    high: float = HIGH,
    per_group: bool = False,
) -> dict[str, Any]:
    """Sweeps the rate of the head, all others in their proportion; returns what lr_find.json holds."""
    files.open_workdir(workdir)
    placement = setup.placement_for(config, "jit")
    setup.check_devices(config.train.batch_size, placement, "train.batch_size")
    parts = open_parts(config)
    splits, model, variables, plan = parts.splits, parts.model, parts.variables, parts.plan
    inputs = make_inputs(
        config,
        workdir,
        model,
        splits,
        placement,
        variables=variables,
        assignment=plan.assignment,
        labels=[plan.stages[0].labels],
        epochs=steps / parts.steps_per_epoch,
    )
    loss = recipe.choose_loss(config, len(model.classes), splits.train.labels)
    curves = sweep(config, model, plan, loss, inputs, variables, steps=steps, low=low, high=high, per_group=per_group)
    found = {}
    for name, (rates, losses) in curves.items():
        marks = lr_find.suggest(rates, losses)
        found[name] = {"suggestions": marks, "rates": rates.tolist(), "losses": losses.tolist()}
        print(f"{name}: " + "  ".join(f"{mark} {rate:.3g}" for mark, rate in marks.items()))
    results = {"model": model.name, "weights": config.model.weights, "data": config.data.source, "sweeps": found}
    files.write_json(workdir / "lr_find.json", results)
    smoothed = {name: (rates, lr_find.smooth(losses)) for name, (rates, losses) in curves.items()}
    marks = {} if per_group else found["all"]["suggestions"]
    title = f"{model.name} on {config.data.source.rpartition('/')[2]}"
    plot_rates(workdir / "lr_find.png", smoothed, marks, title=title)
    print(f"{workdir / 'lr_find.json'} and {workdir / 'lr_find.png'}; set config.optimizer.learning_rate")
    return results


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
    rate = lr_find.exponential(low, high, steps)
    swept = _swept(plan, rate, config.optimizer.learning_rate, per_group=per_group)
    placement = with_stacks(setup.placement_for(config, "jit"), swept.stacks)
    optimizer = swept.make_optimizer(stage)

    def make_step(gates):
        moving = lr_find.gated(optimizer, first_by_stack(plan.assignment, swept.stacks), gates)
        return recipe.make_step(
            config, model, swept, stage, optimizer=moving, loss=loss, module=inputs.model, cached=inputs.cached
        )

    losses = lr_find.sweep(
        make_step,
        placement.put_state(recipe.make_state(config, variables, stage, optimizer)),
        lambda: map(placement.put_batch, inputs.batches(0)),
        steps=steps,
        gates=lr_find.gates_for(plan.assignment, stage.labels, per_group=per_group),
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
    limit = lr_find.suggest(rates, losses).get("diverges")
    if limit is not None:
        print(
            f"optimizer.learning_rate is {chosen:g}, but a short sweep diverged at {limit:.2g} already: lower it, or "
            "see `lr_find`."
        )


def _swept(plan: Plan, rate: Any, base: float, *, per_group: bool) -> Plan:
    """Returns the plan with the sweep as its schedule; rules with a rate of their own keep their proportion to it."""
    replaced: dict[int, dict[str, Any]] = {}
    overrides = {}
    for path, given in plan.overrides.items():
        factor = plan.peaks[path] / base
        # Paths of one rule go on sharing one mapping, and so one transformation.
        own = replaced.setdefault(
            id(given), {**given, "learning_rate": lambda step, factor=factor: factor * rate(step)}
        )
        overrides[path] = own
    # The groups within a stack could not be swept one by one.
    stacks = () if per_group else plan.stacks
    return dataclasses.replace(plan, schedule=rate, overrides=overrides, stacks=stacks)
