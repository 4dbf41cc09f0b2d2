"""The writers that a config asks for, and what they called the run when it began."""

import json
from pathlib import Path

from jaxtl import config as config_lib
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.parallel import processes
from jaxtl.train.writers import choose
from jaxtl.train.writers.base import Run, Writer


def open_writers(experiment: Experiment, workdir: Path, *, done: int) -> list[Writer]:
    """Opens the writers of a run, in the first process; the others have none.

    Args:
      experiment: of the run.
      workdir: of the run; log.json there keeps what servers call it.
      done: steps that were taken before.

    Raises:
      UserError: a file cannot be written, or the run only begins, and a server cannot be reached or wants a login.
    """
    config, path = experiment.config, workdir / "log.json"
    opened: list[Writer] = []

    def open_all() -> None:
        if not processes.is_main():
            return
        run = Run(
            workdir=workdir,
            name=config.log.name or workdir.resolve().name,
            project=config.log.project,
            from_step=done + 1,
            config=config_lib.flat(json.loads(json.dumps(config_lib.to_dict(config)))),
            ids=files.read_json(path) if path.exists() else {},
        )
        names = choose.parse_names(config.log.to)
        writers, ids = choose.open_writers(names, run, begun=done > 0)
        opened.extend(writers)
        if ids:
            files.write_json(path, ids)

    processes.on_all_processes(open_all)
    return opened
