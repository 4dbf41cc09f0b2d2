"""The configs command: lists the recipes, shows one, or copies one into ./configs."""

import argparse
from collections.abc import Mapping, Sequence

from jaxtl import recipes
from jaxtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.usage = "jaxtl configs [NAME | copy NAME]"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME",
        help="show what that recipe says of itself; after `copy`: put it into ./configs, where it can be changed",
    )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    if overrides:
        raise UserError(f"configs takes no --config.{next(iter(overrides))}.")
    run(arguments.words)


def run(words: Sequence[str] = ()) -> None:
    """Lists the recipes; with a name shows that one; with "copy" and a name copies it."""
    match words:
        case []:
            print("\n".join(_entry(recipe) for recipe in recipes.every()))
            print("\nTo use one: jaxtl --config=NAME[:variant] --workdir=DIR")
            print("To read what it says of itself: jaxtl configs NAME; to change it: jaxtl configs copy NAME")
        case ["copy", name]:
            path = recipes.copy(name)
            print(f"{path}: --config={path.stem} takes it from now on, in this folder")
        case ["copy", *_] | [_, _, *_]:
            raise UserError(f"configs {' '.join(words)}: give `configs`, `configs NAME` or `configs copy NAME`.")
        case [name]:
            recipe = recipes.read(recipes.locate(name).path)
            print(f"{recipe.path}\n\n{recipe.docstring}")


def _entry(recipe: recipes.Recipe) -> str:
    origin = f"  (in ./{recipes.OWN})" if recipe.path.parent == recipes.OWN else ""
    lines = [f"{recipe.name}{origin}", *recipe.docstring.splitlines()[:1]]
    if recipe.variants:
        lines.append("variants: " + ", ".join(variant or "(none)" for variant in recipe.variants))
    return "\n    ".join(lines)
