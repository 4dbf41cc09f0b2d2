"""The prepare command: downloads and prepares the TFDS data set of a config, once, for training without TensorFlow."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.commands import flags
from jaxtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides))


def run(config: ConfigDict) -> Path:
    """Prepares config.data.source; returns where it lies."""
    config_lib.check(config)
    kind, _, name = config.data.source.partition(":")
    if kind != "tfds":
        raise UserError(f"data.source {config.data.source!r} needs no preparation: only tfds:NAME does.")
    path = data.prepare(name, data_dir=config.data.data_dir)
    print(f"{config.data.source} is prepared in {path}")
    return path
