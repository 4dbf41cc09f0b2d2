"""The words of a command line: the command, its options, each once, and the values of a config."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxtl.errors import nearest

_CONFIG = "--config."


class Parser(argparse.ArgumentParser):
    """A parser to whom an option given twice is an error: which of the two was meant, nobody can tell."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register("action", None, _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments as usual."""
        self.given: set[str] = set()
        return super().parse_known_args(args, namespace)


class _Once(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        assert isinstance(parser, Parser)
        if option is not None and self.dest in parser.given:
            parser.error(f"{option} is given twice: give it once.")
        parser.given.add(self.dest)
        setattr(namespace, self.dest, values)


def split_command(argv: Sequence[str], commands: Mapping[str, str]) -> tuple[str, list[str]]:
    """Takes the command off the arguments; without one it is "train"."""
    if not argv or argv[0].startswith("-"):
        return "train", list(argv)
    name, *rest = argv
    if name not in commands:
        near = nearest(name, commands)
        meant = f"; did you mean {near}?" if near else "."
        _fail(f"there is no command {name}{meant} The commands are: {', '.join(commands)}.")
    return name, rest


def _fail(text: str) -> NoReturn:
    argparse.ArgumentParser(prog="jaxtl", usage="jaxtl [COMMAND] [OPTIONS]; see jaxtl --help").error(text)


def split_overrides(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[dict[str, str], list[str]]:
    """Takes --config.KEY=VALUE and --config.KEY VALUE out of the arguments."""
    overrides: dict[str, str] = {}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        if not item.startswith(_CONFIG):
            rest.append(item)
            continue
        key, equals, text = item.removeprefix(_CONFIG).partition("=")
        value = text if equals else "" if key == "help" else next(items, None)
        if value is None:
            parser.error(f"{item} needs a value: --config.{key}=VALUE")
        if key in overrides:
            parser.error(f"--config.{key} is given twice, as {overrides[key]!r} and {value!r}: give it once.")
        overrides[key] = value
    return overrides, rest


def asked_key(overrides: dict[str, str]) -> str | None:
    """Takes the question out of the overrides: --config.help[=KEY] or --config.KEY=?; None if nothing is asked."""
    asked = [overrides.pop("help")] if "help" in overrides else []
    asked += [key for key, value in overrides.items() if value == "?"]
    for key in asked:
        overrides.pop(key, None)
    return asked[0] if asked else None


def config_of(rest: Sequence[str]) -> str:
    """Returns what --config is among arguments that are otherwise of no account; "" without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="")
    return str(parser.parse_known_args(rest)[0].config)


def versions() -> str:
    """Returns this version, and those of what it stands on, without importing it."""
    from importlib.metadata import version

    from jaxtl import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    return f"jaxtl {__version__} (Python {python}, JAX {version('jax')}, Flax {version('flax')})"
