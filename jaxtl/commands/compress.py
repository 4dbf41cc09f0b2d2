"""The compress command: a run made smaller or faster by a recipe: zeros, fewer units, few bits; it is a run itself."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.experiment.compress_recipe import RECIPES, SCOPES, Recipe, make_recipe, takers
from jaxtl.experiment.compress_run import compress_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the finished run")
    said = "; ".join(f"{name}: {text}" for name, text in RECIPES.items())
    parser.add_argument("--recipe", choices=tuple(RECIPES), required=True, help=said)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder for the new run")
    for name, text in (
        ("sparsity", "the share of weights that is zero (0.5)"),
        ("ramp", "the share of the steps in which the zeros grow (0: all before the first)"),
        ("flops", "the share of FLOPs that goes (0.3)"),
    ):
        parser.add_argument(f"--{name}", type=float, metavar="X", help=f"of {takers(name)}: {text}")
    text = "of fine-tuning (prune and 2:4: 2, structure: 4, others: 0, which rounds alone)"
    parser.add_argument("--epochs", type=float, metavar="X", help=text)
    said = "; ".join(f"{name}: {text}" for name, text in SCOPES.items())
    parser.add_argument("--scope", choices=tuple(SCOPES), help=f"of {takers('scope')} (unit); {said}")
    parser.epilog = "--config.KEY=VALUE replaces values of the run's config for the fine-tuning"


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    given = {name: getattr(arguments, name) for name in ("sparsity", "flops", "epochs", "ramp", "scope")}
    run(arguments.workdir, arguments.output, make_recipe(arguments.recipe, **given), overrides)


def run(
    workdir: Path | str, output: Path | str, recipe: Recipe, overrides: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Compresses a run and prints it beside the new one; returns what the new results.json holds.

    Raises:
      UserError: the run cannot be compressed so, or the output is taken.
    """
    return compress_run(Path(workdir), Path(output), recipe, overrides or {})
