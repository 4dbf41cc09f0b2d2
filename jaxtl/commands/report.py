"""The report command: the page of a run, at any time."""

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path

from jaxtl.commands import flags
from jaxtl.experiment.reporting import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "a run, finished or not, or what eval wrote")
    parser.add_argument(
        "--map", action="store_true", help="also a map of features, and the training images nearest to the mistakes"
    )
    parser.add_argument(
        "--explain", action="store_true", help="also maps of the pixels that the worst mistakes rest on"
    )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "report")
    run(arguments.workdir, extras=[name for name in ("map", "explain") if getattr(arguments, name)])


def run(workdir: Path | str, *, extras: Collection[str] = ()) -> Path:
    """Writes WORKDIR/report and prints where its page is; returns its path.

    Raises:
      UserError: there is no run, or the page cannot be written.
    """
    page = write_report(Path(workdir), extras=extras)
    print(page)
    return page
