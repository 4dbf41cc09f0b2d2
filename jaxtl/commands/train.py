"""The train command: fine-tunes, keeps the best checkpoint on val, and evaluates it once on test."""

import argparse
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.experiment.run import train_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where the run goes; started again there, it continues where it stopped")
    flags.add_processes(parser)


def run(config: ConfigDict, workdir: Path | str) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`; returns what results.json holds."""
    return train_run(config, Path(workdir))


main = flags.main_of(run)
