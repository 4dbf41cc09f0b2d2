"""The export command: the best checkpoint of a run as one file that needs no run."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from jaxtl import weights
from jaxtl.commands import arguments as flags
from jaxtl.commands import setup
from jaxtl.commands import workdir as files
from jaxtl.errors import UserError
from jaxtl.weights.checkpoint import read_best


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the run whose best checkpoint is written")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="a .safetensors file to write")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "export")
    run(arguments.workdir, arguments.output)


def run(workdir: Path, output: Path) -> None:
    """Writes parameters, statistics, pixel facts and class names; --config.model.weights=FILE opens them again."""
    if output.suffix != ".safetensors":
        raise UserError(f"--output={output} must end in .safetensors.")
    model = setup.load_model(files.read_json(workdir / "model.json"))
    step, variables = read_best(workdir)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        weights.save_native(
            output, variables, model=model.name, pixels=model.pixels, classes=model.classes, epsilon=model.epsilon
        )
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    print(f"{output}: {model.name} with {len(model.classes)} classes, step {step}, {output.stat().st_size:,} bytes")
