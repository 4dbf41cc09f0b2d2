"""Flags that several commands share."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl.errors import UserError


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config; the flags --config.KEY=VALUE are taken out before."""
    parser.add_argument("--config", required=True, metavar="FILE[:variant]", help="a file of configs/, or your own")
    parser.epilog = "--config.KEY=VALUE replaces single values, as --config.train.epochs=3 does"


def add_workdir(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds --workdir."""
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help=text)


def load_config(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of --config with the overrides put in."""
    return config_lib.load(arguments.config, overrides)


def refuse_overrides(overrides: Mapping[str, str], command: str) -> None:
    """Raises a UserError if there are overrides, for commands that read the config of a run."""
    if overrides:
        keys = ", ".join(f"--config.{key}" for key in overrides)
        raise UserError(f"{command} uses the run as it was trained and takes no {keys}.")
