"""What a run writes while it trains: metrics.jsonl, TensorBoard events, and lines or a progress bar on the screen."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tqdm

from jaxtl.errors import UserError, writing
from jaxtl.parallel import processes
from jaxtl.train.events import Events


class MetricsLog:
    """Writes each line of metrics to metrics.jsonl and to TensorBoard.

    metrics.jsonl holds nothing that depends on the clock, so a run that was stopped and continued leaves the same
    bytes as one that was not. Speeds go to TensorBoard and the screen. Of several processes only the first writes.
    """

    def __init__(self, workdir: Path, *, from_step: int = 0, evaluated: bool = True):
        """Opens the files, and drops what was written after `from_step`: those steps are taken again.

        Args:
          workdir: of the run.
          from_step: the last step whose lines stay.
          evaluated: whether that includes its evaluation.
        """
        self.path = workdir / "metrics.jsonl"
        self._writes = processes.is_main()
        if not self._writes:
            return
        with writing(self.path):
            _truncate(self.path, from_step, evaluated)
            self._file = self.path.open("a", encoding="utf-8")
            self._events = Events(workdir / "events", from_step=from_step + 1)

    def __enter__(self) -> "MetricsLog":
        """Returns itself; leaving closes the files."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._writes:
            return
        try:
            with writing(self.path):
                try:
                    self._file.close()
                finally:
                    self._events.close()
        except UserError:
            # What ended the run is told, not what came of it.
            if kind is None:
                raise

    def write(
        self, step: int, split: str, values: Mapping[str, float], speeds: Mapping[str, float] | None = None
    ) -> None:
        """Writes one line: `values` to both places, `speeds` (what depends on the clock) to TensorBoard only."""
        if not self._writes:
            return
        with writing(self.path):
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self._file.flush()
            for key, value in {**values, **(speeds or {})}.items():
                self._events.scalar(f"{split}/{key}", value, step)

    def sync(self) -> None:
        """Forces the lines to the disk, before a checkpoint claims that they exist."""
        if self._writes:
            with writing(self.path):
                os.fsync(self._file.fileno())


class Screen:
    """Lines for a person, the same everywhere, and below them a progress bar where there is a terminal."""

    def __init__(self, total: int, *, start: int = 0, batch_size: int = 1, steps_per_epoch: float = 0.0):
        """Starts at `start` of `total` steps; without `steps_per_epoch` lines name no epoch."""
        self._total, self._steps_per_epoch = total, steps_per_epoch
        self._taken, self._began = 0, time.perf_counter()
        self._bar = None
        if sys.stderr.isatty() and processes.is_main():
            # Images, not steps: the rate that the bar shows is then the number people compare.
            self._bar = tqdm.tqdm(total=total * batch_size, initial=start * batch_size, unit="img", dynamic_ncols=True)
        self._batch_size = batch_size

    def __enter__(self) -> "Screen":
        """Returns itself; leaving closes the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """Counts one step."""
        self._taken += 1
        if self._bar is not None:
            self._bar.update(self._batch_size)

    def line(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Shows the metrics that a person follows, with the epoch and the time left; the log holds all of them."""
        place = f"step {step}/{self._total}"
        if self._steps_per_epoch:
            total = math.ceil(self._total / self._steps_per_epoch)
            place = f"epoch {min(math.ceil(step / self._steps_per_epoch), total)}/{total}  {place}"
        shown = [text(values[key]) for key, text in _SHOWN.items() if key in values]
        if split == "train" and self._taken and step < self._total:
            # Evaluations and checkpoints so far are in it, as they will be in what is left.
            left = (time.perf_counter() - self._began) / self._taken * (self._total - step)
            shown.append(f"{duration(left)} left")
        line = "  ".join([place, f"{split:5}", *shown])
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)


def duration(seconds: float) -> str:
    """Returns a time for a person: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_SHOWN: Mapping[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4g}",
    "accuracy": lambda value: f"accuracy {100 * value:.1f} %",
    "f1": lambda value: f"F1 {100 * value:.1f} %",
    "map": lambda value: f"mAP {100 * value:.1f} %",
    "learning_rate": lambda value: f"learning rate {value:.2g}",
    "skipped": lambda value: f"{value:g} steps left out",
    "images_per_second": lambda value: f"{value:,.0f} images/s" if value >= 10 else f"{value:.2g} images/s",
}


def _truncate(path: Path, last_step: int, evaluated: bool) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        # A killed process may leave half a line, the last one.
        if not line.endswith("\n"):
            continue
        written = json.loads(line)
        if written["step"] < last_step or (written["step"] == last_step and (evaluated or written["split"] == "train")):
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
