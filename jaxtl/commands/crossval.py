"""The crossval command: one run for each fold, or linear probes of all folds at once, and what they give together."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.experiment.cross_validation import NAME, Cut, cross_validate
from jaxtl.experiment.fold_page import NAME as PAGE
from jaxtl.experiment.fold_table import lines_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where a folder for each run and crossval.json go; started again, it goes on")
    parser.add_argument("--folds", type=int, default=5, metavar="K", help="number of folds (5)")
    parser.add_argument("--repeats", type=int, default=1, metavar="R", help="how often to cut into folds anew (1)")
    parser.add_argument("--probe", action="store_true", help="fit linear classifiers to frozen features, all at once")
    flags.add_processes(parser)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    with flags.connected(arguments):
        config = flags.load_config(arguments, overrides)
        run(config, arguments.workdir, arguments.folds, repeats=arguments.repeats, probe=arguments.probe)


def run(
    config: ConfigDict, workdir: Path | str, folds: int = 5, *, repeats: int = 1, probe: bool = False
) -> dict[str, Any]:
    """Cross-validates a config, prints a table, and returns what crossval.json holds."""
    results = cross_validate(config, Path(workdir), Cut(folds, repeats), probe=probe)
    print("\n".join([*lines_of(results), "", *(str(Path(workdir) / name) for name in (NAME, PAGE))]))
    return results
