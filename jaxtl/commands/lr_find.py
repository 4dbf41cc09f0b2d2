"""The lr_find command: sweeps the learning rate over the first batches, and suggests one."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.evaluate.plot import plot_rates
from jaxtl.experiment import lr_sweep, setup
from jaxtl.experiment import steps as steps_lib
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import open_parts
from jaxtl.experiment.input_pipeline import make_inputs
from jaxtl.train import lr_range_test

LOW, HIGH = 1e-7, 10.0


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
    partitioner = setup.partitioner_for(config, "jit")
    setup.check_devices(config.train.batch_size, partitioner, "train.batch_size")
    parts = open_parts(config)
    splits, model, variables, plan = parts.splits, parts.model, parts.variables, parts.plan
    inputs = make_inputs(
        config,
        workdir,
        model,
        splits,
        partitioner,
        variables=variables,
        assignment=plan.assignment,
        labels=[plan.stages[0].labels],
        epochs=steps / parts.steps_per_epoch,
    )
    loss = steps_lib.choose_loss(config, len(model.classes), splits.train.labels)
    curves = lr_sweep.sweep(
        config, model, plan, loss, inputs, variables, steps=steps, low=low, high=high, per_group=per_group
    )
    found = {}
    for name, (rates, losses) in curves.items():
        suggestions = lr_range_test.suggest(rates, losses)
        found[name] = {"suggestions": suggestions, "rates": rates.tolist(), "losses": losses.tolist()}
        print(f"{name}: " + "  ".join(f"{mark} {rate:.3g}" for mark, rate in suggestions.items()))
    results = {"model": model.name, "weights": config.model.weights, "data": config.data.source, "sweeps": found}
    files.write_json(workdir / "lr_find.json", results)
    smoothed = {name: (rates, lr_range_test.smooth(losses)) for name, (rates, losses) in curves.items()}
    suggestions = {} if per_group else found["all"]["suggestions"]
    title = f"{model.name} on {config.data.source.rpartition('/')[2]}"
    plot_rates(workdir / "lr_find.png", smoothed, suggestions, title=title)
    print(f"{workdir / 'lr_find.json'} and {workdir / 'lr_find.png'}; set config.optimizer.learning_rate")
    return results
