"""The predict command: one JSON line for each image, from the predictor that `jaxtl.load` gives."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.data.formats import describe_others
from jaxtl.deploy.images import find_images, to_place
from jaxtl.errors import UserError
from jaxtl.experiment.loading import Decisions, load_predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="a run, an ensemble, an export, or an address, hf:org/name"
    )
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="images computed at once (32)")
    parser.add_argument("--calibrated", action="store_true", help="give calibrated probabilities (calibration.json)")
    parser.add_argument(
        "--reject_below", type=float, metavar="P", help='say "class": null where no class has this probability'
    )
    parser.add_argument(
        "--operating_points", action="store_true", help="decide as operating_points.json says, by calibrated ones"
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=to_place,
        metavar="FILE_OR_DIR",
        help="images, folders of images, or addresses of images",
    )


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Runs the command from its flags; returns 1 if a file could not be read."""
    flags.refuse_overrides(overrides, "predict")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size is {arguments.batch_size}, but it must be 1 or more.")
    return run(
        arguments.workdir,
        arguments.files,
        batch_size=arguments.batch_size,
        calibrated=arguments.calibrated,
        reject_below=arguments.reject_below,
        operating_points=arguments.operating_points,
    )


def run(
    workdir: str | Path,
    paths: Sequence[Path | str],
    *,
    batch_size: int = 32,
    calibrated: bool = False,
    reject_below: float | None = None,
    operating_points: bool = False,
) -> int:
    """Prints a line for each image, as the predictor has it; returns 1 if one could not be read, else 0."""
    decisions = Decisions(calibrated, reject_below, operating_points)
    predictor = load_predictor(workdir, decisions, batch_size=batch_size)
    found = find_images([to_place(str(path)) for path in paths])
    others = ""
    if found.others:
        kinds = describe_others([str(path) for path in found.others])
        others = f"not taken, since no images: {kinds}"
    if not found.images:
        raise UserError(f"there is no image file in {', '.join(map(str, paths))}." + f"\n{others}" * bool(others))
    failed = False
    for line in predictor.lines(found.images):
        failed |= "error" in line
        print(_to_text(line), flush=True)
    if others:
        print(others, file=sys.stderr)
    return int(failed)


def _to_text(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # The name of a file may be any bytes.
        return json.dumps(line)
    return text
