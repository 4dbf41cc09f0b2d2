"""The compare command: runs beside each other, with paired differences on the same images, as tables and a page."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.experiment import comparing, comparison_page, comparison_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs, the baseline first")
    parser.add_argument("--output", type=Path, default=Path("compare"), metavar="DIR", help="a folder (./compare)")
    parser.add_argument("--split", choices=("val", "test"), default="", help="test, or val where a run has no test")
    parser.add_argument("--shared", action="store_true", help="compare the images alone that all have")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "compare")
    try:
        run(arguments.runs, arguments.output, split=arguments.split, shared=arguments.shared)
    except UserError as error:
        if "shared" not in error.arguments:
            raise
        raise UserError(f"{error}\n(set with --shared)") from error


def run(
    workdirs: Sequence[Path | str], output: Path | str = "compare", *, split: str = "", shared: bool = False
) -> comparing.Comparison:
    """Prints how runs differ, and writes compare.html, compare.md and compare.json into a folder."""
    if len(workdirs) < 2:
        raise UserError("compare needs two runs or more: give their workdirs, the baseline first.")
    comparison_page.check_output(Path(output))
    runs = comparing.read_runs([Path(workdir) for workdir in workdirs])
    comparison = comparing.compare(runs, split=split, shared=shared)
    print(comparison_tables.to_text(comparison))
    print(*comparison_page.write(comparison, Path(output)))
    return comparison
