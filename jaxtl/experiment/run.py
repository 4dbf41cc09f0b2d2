"""A run from its config to its results and its page, begun or gone on with: what the train command does."""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build
from jaxtl.experiment.finished import complete
from jaxtl.experiment.lock import locked
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.results import report
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end
from jaxtl.train.preemption import Preemption


def train_run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`; returns what results.json holds.

    Raises:
      Stopped: it was asked to; the state is saved.
      UserError: whatever the user can fix.
    """
    started = time.perf_counter()
    made = files.open_workdir(workdir, config.data.source)
    with locked(workdir):
        return _run(files.with_former_defaults(config, workdir), workdir, made, started)


def _run(config: ConfigDict, workdir: Path, made: list[Path], started: float) -> dict[str, Any]:
    if (workdir / "results.json").exists():
        if not files.has_checkpoints(workdir):
            raise UserError(f"--workdir={workdir} holds the results of another command: give another folder.")
        files.claim(workdir, config)
        return report(complete(config, workdir), workdir)
    with Preemption() as preemption:
        try:
            built = build(config, earlier=files.began_earlier(workdir), fitted=files.began_fitted(workdir))
            experiment = start_run(built, workdir)
        except UserError:
            files.discard(workdir, made)
            raise
        results = train_to_end(experiment, workdir, started=started, stop=preemption.requested)
    if config.eval.report:
        report_at_end(workdir, {"val": experiment.splits.val, "test": experiment.splits.test})
    return report(results, workdir)
