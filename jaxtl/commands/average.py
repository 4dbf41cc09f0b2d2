"""The average command: one run whose weights are the mean of those of several runs, or of one run's checkpoints."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.experiment.average_run import average_runs
from jaxtl.experiment.averaging import WAYS
from jaxtl.experiment.results import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs of finished runs of one network")
    flags.add_workdir(parser, "a new folder for the mean, a run like any other")
    said = "; ".join(f"{name}: {text}" for name, text in WAYS.items())
    parser.add_argument("--by", choices=tuple(WAYS), default="greedy", help=f"{said} (default: %(default)s)")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "average")
    run(arguments.runs, arguments.workdir, arguments.by)


def run(runs: Sequence[Path | str], workdir: Path | str, by: str = "greedy") -> dict[str, Any]:
    """Averages weights and prints how good the mean is; returns what results.json holds.

    Raises:
      UserError: the runs do not fit each other, or the workdir is taken.
    """
    return report(average_runs([Path(each) for each in runs], Path(workdir), by), Path(workdir))
