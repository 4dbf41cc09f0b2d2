"""What lies in the folder of a run, read without its config: a predictor opens a run by it in a second less."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from jaxtl.checkpoints.folders import steps_in
from jaxtl.errors import UserError
from jaxtl.evaluate.combining import FITTED
from jaxtl.parallel import processes

ENSEMBLE = "ensemble.json"
"""The file that an ensemble has, and nothing else."""


CROSS_VALIDATION = "crossval.json"
"""The file that a cross-validation has when it is finished, and nothing else."""

FOLD = re.compile(r"(?:repeat\d+_)?fold\d+of(?P<of>\d+)")
"""The name of the folder of a fold's run."""


def refuse_cross_validation(workdir: Path) -> None:
    """Raises a UserError if a workdir is that of a cross-validation, finished or not."""
    runs = sorted(path for path in workdir.iterdir() if FOLD.fullmatch(path.name))
    if runs or (workdir / CROSS_VALIDATION).exists():
        one = f" Of its runs, report takes one, such as {runs[0]}." if runs else ""
        page = (workdir / CROSS_VALIDATION).with_suffix(".html")
        raise UserError(
            f"{workdir} holds a cross-validation, whose page is written by crossval at its end: {page}.{one}"
        )


def is_ensemble(workdir: Path) -> bool:
    """Tells whether a workdir is that of an ensemble, which has members instead of checkpoints."""
    return (workdir / ENSEMBLE).exists()


def fitted_to_val(workdir: Path) -> bool:
    """Tells whether a workdir is that of an ensemble that was fitted to val, where its predictions are in-sample."""
    return is_ensemble(workdir) and read_json(workdir / ENSEMBLE).get("combination", {}).get("by") in FITTED


def refuse_ensemble(workdir: Path, why: str) -> None:
    """Raises a UserError if the workdir is that of an ensemble; `why` goes on after "an ensemble"."""
    if is_ensemble(workdir):
        raise UserError(f"{workdir} is an ensemble, and an ensemble {why}.")


def has_checkpoints(workdir: Path) -> bool:
    """Tells whether a run has saved a step there."""
    return bool(steps_in(workdir / "checkpoints"))


def note_unfinished(workdir: Path, taken: str) -> None:
    """Says on stderr that a run has no results yet, and what is taken of it, such as "step 8"."""
    if not (workdir / "results.json").exists() and processes.is_main():
        print(
            f"note: the run in {workdir} is not finished (it has no results.json); its best checkpoint so far is "
            f"taken, {taken}",
            file=sys.stderr,
        )


def read_json(path: Path) -> Any:
    """Reads one of the files of a run.

    Raises:
      UserError: it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}: give the --workdir of a run that has trained.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def has_several(workdir: Path) -> bool:
    """Tells whether a run has several labels an image, or none."""
    path = workdir / "model.json"
    return path.exists() and bool(read_json(path).get("several_labels", False))


def is_sigmoid(workdir: Path) -> bool:
    """Tells whether the classes of a run have a probability of their own each."""
    return read_json(workdir / "config.json").get("train", {}).get("loss") == "binary" or has_several(workdir)
