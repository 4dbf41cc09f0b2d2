"""The ensemble command: the predictions of several runs put together, by vote, weights, logits or stacking."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.errors import UserError
from jaxtl.evaluate.combining import WAYS
from jaxtl.experiment.ensembling import make_ensemble
from jaxtl.experiment.results import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs of finished runs, of any models")
    flags.add_workdir(parser, "a new folder for the ensemble, which eval, predict and report take")
    said = "; ".join(f"{name}: {text}" for name, text in WAYS.items())
    parser.add_argument("--by", choices=tuple(WAYS), default="weighted", help=f"{said} (default: %(default)s)")
    parser.add_argument("--flip", action="store_true", help="predict each view mirrored, too")
    parser.add_argument("--crops", type=int, default=1, metavar="N", help="1: the centre; 5: the corners as well (1)")
    parser.add_argument("--scales", default="", metavar="S,S", help="also at these factors of the size, as in 1.15,1.3")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "ensemble")
    try:
        scales = tuple(float(text) for text in arguments.scales.split(",") if text)
    except ValueError:
        raise UserError(f"--scales={arguments.scales} must be numbers with commas, such as 1.15,1.3.") from None
    views = PredictionViews(flip=arguments.flip, crops=arguments.crops, scales=scales)
    run(arguments.runs, arguments.workdir, arguments.by, views=views)


def run(
    runs: Sequence[Path | str],
    workdir: Path | str,
    by: str = "weighted",
    *,
    views: PredictionViews | None = None,
) -> dict[str, Any]:
    """Makes an ensemble and prints how good it is beside its members; returns what results.json holds.

    Raises:
      UserError: the runs do not fit each other, or the workdir is taken.
    """
    return report(
        make_ensemble([Path(each) for each in runs], Path(workdir), by, views or PredictionViews()), Path(workdir)
    )
