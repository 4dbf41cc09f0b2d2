"""The lr_find command: sweeps the learning rate over the first batches, and suggests one."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.evaluate.plot import plot_rates
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build
from jaxtl.experiment.input_pipeline import make_inputs
from jaxtl.experiment.lr_sweep import Sweep, run_sweep
from jaxtl.train import lr_range_test

_DEFAULT = Sweep()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where lr_find.json and the plot go; nothing in it changes otherwise")
    parser.add_argument("--per-group", action="store_true", help="sweep each group that trains, the others at rest")
    parser.add_argument("--steps", type=int, default=_DEFAULT.steps, help="steps of a sweep (%(default)s)")
    parser.add_argument("--low", type=float, default=_DEFAULT.low, help="first rate of the head (%(default)g)")
    parser.add_argument("--high", type=float, default=_DEFAULT.high, help="last rate of the head (%(default)g)")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    config = flags.load_config(arguments, overrides)
    sweep = Sweep(arguments.steps, arguments.low, arguments.high, arguments.per_group)
    run(config, arguments.workdir, sweep)


def run(config: ConfigDict, workdir: Path | str, sweep: Sweep = _DEFAULT) -> dict[str, Any]:
    """Sweeps the rate of the head, all others in their proportion; returns what lr_find.json holds."""
    workdir = Path(workdir)
    files.open_workdir(workdir)
    experiment = build(config)
    model = experiment.model
    epochs = sweep.steps / experiment.steps_per_epoch
    inputs = make_inputs(experiment, workdir, stages=experiment.plan.stages[:1], epochs=epochs)
    curves = run_sweep(experiment, inputs, experiment.variables, sweep)
    found = {}
    for name, (rates, losses) in curves.items():
        suggestions = lr_range_test.suggest(rates, losses)
        found[name] = {"suggestions": suggestions, "rates": rates.tolist(), "losses": losses.tolist()}
        print(f"{name}: " + "  ".join(f"{mark} {rate:.3g}" for mark, rate in suggestions.items()))
    results = {"model": model.name, "weights": config.model.weights, "data": config.data.source, "sweeps": found}
    files.write_json(workdir / "lr_find.json", results)
    smoothed = {name: (rates, lr_range_test.smooth(losses)) for name, (rates, losses) in curves.items()}
    suggestions = {} if sweep.per_group else found["all"]["suggestions"]
    title = f"{model.name} on {config.data.source.rpartition('/')[2]}"
    plot_rates(workdir / "lr_find.png", smoothed, suggestions, title=title)
    print(f"{workdir / 'lr_find.json'} and {workdir / 'lr_find.png'}; set config.optimizer.learning_rate")
    return results
