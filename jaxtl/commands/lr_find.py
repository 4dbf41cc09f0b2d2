"""The lr_find command: sweeps the learning rate over the first batches, and recommends one."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.evaluate.plot import plot_rates
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build
from jaxtl.experiment.input_pipeline import make_inputs
from jaxtl.experiment.lr_sweep import Sweep, run_sweep
from jaxtl.experiment.model import weights_location
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
    sweep = Sweep(arguments.steps, arguments.low, arguments.high, arguments.per_group)
    _check(sweep)
    config = flags.load_config(arguments, overrides)
    results = run(config, arguments.workdir, sweep)
    rate = results["sweeps"].get("all", {}).get("recommended")
    if rate is not None and any("learning_rate" in rule for rule in config.finetune.groups.values()):
        factor = rate / results["configured"]
        print(f"with it, multiply the rates of finetune.groups by {factor:.3g}: they kept their proportion to it")
    elif rate is not None:
        given = {**overrides, "optimizer.learning_rate": f"{rate:g}"}
        values = [f"--config={arguments.config}", f"--workdir={arguments.workdir}-train"]
        values += [f"--config.{key}={value}" for key, value in given.items()]
        print(f"python -m jaxtl.main {shlex.join(values)}")


def _check(sweep: Sweep) -> None:
    if not 0 < sweep.low < sweep.high:
        raise UserError(
            f"--low={sweep.low:g} --high={sweep.high:g}: rates grow from the one to the other, as in "
            f"--low={_DEFAULT.low:g} --high={_DEFAULT.high:g}."
        )
    if sweep.steps < lr_range_test.MIN_STEPS:
        raise UserError(
            f"--steps={sweep.steps}: a sweep needs {lr_range_test.MIN_STEPS} steps at least; give {_DEFAULT.steps}."
        )


def run(config: ConfigDict, workdir: Path | str, sweep: Sweep = _DEFAULT) -> dict[str, Any]:
    """Sweeps the rate of the head, all others in their proportion; returns what lr_find.json holds."""
    workdir = Path(workdir)
    files.open_workdir(workdir, config.data.source)
    experiment = build(config)
    model = experiment.model
    epochs = sweep.steps / experiment.steps_per_epoch
    inputs = make_inputs(experiment, workdir, stages=experiment.plan.stages[:1], epochs=epochs)
    curves = run_sweep(experiment, inputs, experiment.variables, sweep)
    found: dict[str, dict[str, Any]] = {}
    for name, (rates, losses) in curves.items():
        best, marks = lr_range_test.recommend(rates, losses), lr_range_test.suggest(rates, losses)
        # Two digits: the next ones are noise.
        rate = None if best.rate is None else float(f"{best.rate:.2g}")
        of_whom = f"{name}: " if sweep.per_group else ""
        print(f"{of_whom}learning rate {rate or 'unknown'}: {best.reason}", *filter(None, [best.warning]), sep="\n")
        found[name] = {"recommended": rate, "reason": best.reason, "warning": best.warning, "suggestions": marks}
        found[name] |= {"rates": rates.tolist(), "losses": losses.tolist()}
    results = {"model": model.name, "weights": weights_location(config), "data": config.data.source, "sweeps": found}
    results["configured"] = experiment.config.optimizer.learning_rate
    files.write_json(workdir / "lr_find.json", results)
    smoothed = {name: (rates, lr_range_test.smooth(losses)) for name, (rates, losses) in curves.items()}
    recommended = {name: each["recommended"] for name, each in found.items() if each["recommended"] is not None}
    title = f"{model.name} on {config.data.source.rpartition('/')[2]}"
    plot_rates(workdir / "lr_find.png", smoothed, recommended, title=title)
    print(f"{workdir / 'lr_find.json'} and {workdir / 'lr_find.png'}")
    return results
