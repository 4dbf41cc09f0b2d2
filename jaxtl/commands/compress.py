"""The compress command: a run made smaller or faster by a recipe: zeros, fewer units, few bits; it is a run itself."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.experiment.compress_run import compress_run
from jaxtl.experiment.compressing import RECIPES, Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the finished run")
    said = "; ".join(f"{name}: {text}" for name, text in RECIPES.items())
    parser.add_argument("--recipe", choices=tuple(RECIPES), required=True, help=said)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder for the new run")
    number = {"type": float, "metavar": "X"}
    parser.add_argument("--sparsity", default=0.5, help="of prune: the share of weights that is zero (0.5)", **number)
    parser.add_argument(
        "--ramp", default=0.0, help="of prune: the share of steps in which they grow (0: none)", **number
    )
    parser.add_argument("--scope", choices=("global", "group"), default="global", help="of prune: what has that share")
    parser.add_argument("--flops", default=0.3, help="of structure: the share of FLOPs that goes (0.3)", **number)
    parser.add_argument(
        "--epochs", help="of fine-tuning (prune and 2:4: 2; structure: 4; others: 0, which rounds alone)", **number
    )
    parser.epilog = "--config.KEY=VALUE replaces values of the run's config for the fine-tuning"


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    given = {name: getattr(arguments, name) for name in ("sparsity", "flops", "epochs", "ramp", "scope")}
    run(arguments.workdir, arguments.output, Recipe(arguments.recipe, **given), overrides)


def run(
    workdir: Path | str, output: Path | str, recipe: Recipe, overrides: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Compresses a run and prints it beside the new one; returns what the new results.json holds.

    Raises:
      UserError: the run cannot be compressed so, or the output is taken.
    """
    return compress_run(Path(workdir), Path(output), recipe, overrides or {})
