"""The show command: contact sheets of what a config trains and evaluates on."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.experiment.showing import draw_sheets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where the pictures go; nothing in it changes otherwise")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), arguments.workdir)


def run(config: ConfigDict, workdir: Path | str) -> list[Path]:
    """Draws training views, evaluation views, and one image in 16 epochs, as PNG; returns the paths."""
    return draw_sheets(config, Path(workdir))
