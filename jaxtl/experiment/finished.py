"""A finished run that is started again: what has changed since is said, and what it lacks is made good."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.calibrating import NAME, read_calibration, recalibrate
from jaxtl.experiment.changes import changed_since
from jaxtl.experiment.reporting import write_report
from jaxtl.parallel import processes


def complete(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Says what has changed since a run was finished, and returns its results; nothing is trained.

    Calibration needs the predictions of the run alone: where another one is asked for, it is fitted. A run that was
    stopped between its results and its page gets the page.

    Args:
      config: of the run, as it is asked for now.
      workdir: of the run.
    """
    print(f"{workdir} is finished already; its results:")
    for line in changed_since(config, workdir):
        print(f"since then {line}; to train with what is there now, give another --workdir")
    fitted = processes.is_main() and _calibrate(config.eval.calibration, workdir)
    page = workdir / "report" / "index.html"
    if config.eval.report and processes.is_main() and (fitted or not page.exists()):
        try:
            write_report(workdir)
        except UserError as error:
            print(f"note      the report was not written: {error}")
    print(f"to train longer, from what it has learnt: another --workdir, and --config.model.weights=run:{workdir}")
    results: dict[str, Any] = files.read_json(workdir / "results.json")
    return results


def _calibrate(method: str, workdir: Path) -> bool:
    """Fits the calibration that is asked for, if the run was asked for another one; tells whether it did."""
    asked = files.run_config(workdir).eval.calibration
    try:
        there = read_calibration(workdir)
        if method == (asked if there is None else there.scaling.method):
            return False
        if method == "none":
            if there is not None:
                print(f"its {NAME} stays: nothing applies it but what is asked to")
            return False
        recalibrate(workdir, method)
    except UserError as error:
        print(f"its calibration stays as it was: {error}")
        return False
    print(f"its calibration was fitted anew, from predictions.npz: {method} scaling")
    return True
