"""The operating_points command: thresholds for a wanted precision, recall, accuracy or coverage, or for costs."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.evaluate.rejection import SCORES
from jaxtl.experiment.operating import NAME, SHARES, Wanted, choose_operating_points, lines_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the run whose predictions.npz is read")
    one = parser.add_mutually_exclusive_group()
    for name, of in zip(SHARES, ("of each class", "of each class", "of what is kept", "of all images"), strict=True):
        one.add_argument(f"--{name}", type=float, metavar="SHARE", help=f"the least {name} {of}, such as 0.95")
    one.add_argument(
        "--costs", type=Path, metavar="FILE.csv", help="what each decision (column) costs for each class (row), by name"
    )
    parser.add_argument("--by", choices=SCORES, default="", help=f"what puts images aside (default: {SCORES[0]})")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "operating_points")
    given = [name for name in SHARES if getattr(arguments, name) is not None]
    kind = given[0] if given else "costs" if arguments.costs else ""
    share = getattr(arguments, kind) if given else 0.0
    run(arguments.workdir, Wanted(kind, share, arguments.by, arguments.costs))


def run(workdir: Path | str, wanted: Wanted) -> dict[str, Any]:
    """Chooses operating points on val, prints them, and returns what operating_points.json holds then."""
    found = choose_operating_points(Path(workdir), wanted)
    print("\n".join([*lines_of(found), *(["", str(Path(workdir) / NAME)] if found["rule"] else [])]))
    return found
