"""The config command: every key, with its default or its value in a config, and what it means."""

import argparse
from collections.abc import Mapping

from jaxtl import config as config_lib
from jaxtl import config_help
from jaxtl.errors import UserError
from jaxtl.pretrained import catalog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--config", default="", metavar="FILE[:variant]", help="show the values that it gives, too")
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="a key or a section, such as optimizer")
    parser.epilog = "`jaxtl config model.name` lists the models, too; --config.KEY=? asks any command for a key."


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(arguments.key, config=arguments.config, overrides=overrides)


def run(key: str = "", *, config: str = "", overrides: Mapping[str, str] | None = None) -> None:
    """Prints the keys that a name or the beginning of one selects; with a config, its values."""
    defaults, known = config_lib.defaults(), config_lib.meanings()
    values = config_lib.flat(config_lib.load(config, overrides or {})) if config else None
    if overrides and not config:
        raise UserError(f"--config.{next(iter(overrides))} is given without --config: a value needs a config.")
    key = key.removeprefix("config.")
    keys = config_help.select(key, defaults)
    if not keys:
        raise UserError(config_help.unknown(key, defaults, known))
    print(config_help.table(keys, defaults, known, values))
    if keys == ["model.name"]:
        for line in catalog.lines():
            print(line, flush=True)
    elif not key:
        print(
            "\nTo see some: jaxtl config optimizer; the values of a config: --config=FILE; to set: --config.KEY=VALUE"
        )
