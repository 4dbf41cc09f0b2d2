"""The export command: the best checkpoint of a run as files that need no run, and their verification anywhere."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from jaxtl.commands import flags
from jaxtl.deploy.export import formats
from jaxtl.deploy.export.verify import verify
from jaxtl.errors import UserError
from jaxtl.experiment.exporting import Options, export_run

_PLACES = ("workdir", "output")
_CHOICES = ("format", "calibrated", "dtype", "with_pixels", "push", "public")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="the run whose best checkpoint is written")
    parser.add_argument(
        "--format",
        choices=tuple(formats()),
        help="; ".join(f"{each.name}: {each.text}" for each in formats().values()) + " (default: jaxtl)",
    )
    endings = ", ".join(each.suffix for each in formats().values() if each.suffix)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help=f"a file, {endings} by the format (added where the name has no ending), or a new folder",
    )
    parser.add_argument("--calibrated", action="store_true", help="fold the calibration into the last dense layer")
    parser.add_argument(
        "--dtype",
        choices=tuple(dict.fromkeys(dtype for each in formats().values() for dtype in each.dtypes)),
        help="what it computes in (default: float32)",
    )
    parser.add_argument(
        "--with-pixels", action="store_true", help="take uint8, and normalise within (resize and crop stay outside)"
    )
    parser.add_argument(
        "--push",
        default="",
        metavar="ORG/NAME",
        help="also put the folder on the Hugging Face hub, as a new repository, with the token in $HF_TOKEN",
    )
    parser.add_argument("--public", action="store_true", help="let everybody see that repository (default: private)")
    parser.add_argument(
        "--verify", type=Path, metavar="FILE_OR_DIR", help="compare an export with JAX, by the logits that it carries"
    )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Runs the command from its flags; returns 1 where an export computes otherwise than JAX."""
    flags.refuse_overrides(overrides, "export")
    if arguments.verify is not None:
        if given := [f"--{name.replace('_', '-')}" for name in (*_PLACES, *_CHOICES) if getattr(arguments, name)]:
            raise UserError(f"--verify takes an export alone: leave out {', '.join(given)}.")
        return run_verify(arguments.verify)
    missing = [f"--{name}" for name in _PLACES if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"give {' and '.join(missing)}, or --verify=FILE for an export that is there.")
    chosen = {name: value for name in _CHOICES if (value := getattr(arguments, name))}
    run(arguments.workdir, arguments.output, **chosen)
    return 0


def run(
    workdir: Path | str,
    output: Path | str,
    format: str = "jaxtl",
    *,
    calibrated: bool = False,
    dtype: str = "float32",
    with_pixels: bool = False,
    push: str = "",
    public: bool = False,
) -> None:
    """Writes an export, and prints what it is; the arguments and errors are those of `exporting.export_run`."""
    options = Options(format, calibrated, dtype, with_pixels, push, public)
    print("\n".join(export_run(Path(workdir), Path(output), options)))


def run_verify(path: Path) -> int:
    """Prints where an export comes from, and how near its logits are to those of JAX; returns 1 if they are not."""
    notes, program, comparison = verify(path)
    print("\n".join(notes.provenance.lines()))
    print(f"{'verified' if comparison.passes else 'differs':<10}{program}: {comparison}")
    return int(not comparison.passes)
