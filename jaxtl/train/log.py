"""What a run writes while it trains: metrics.jsonl, TensorBoard events, and lines or a progress bar on the screen."""

import json
import os
import sys
from collections.abc import Mapping
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
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, *, start: int = 0, batch_size: int = 1):
        """Starts at `start` of `total` steps."""
        self._start, self._total = start, total
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
        if self._bar is not None:
            self._bar.update(self._batch_size)

    def line(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Shows metrics: beside the bar for training, as a line of their own otherwise."""
        text = "  ".join(f"{key} {_short(value)}" for key, value in values.items())
        if self._bar is None:
            print(f"step {step}/{self._total}  {split:5}  {text}", flush=True)
        elif split == "train":
            self._bar.set_postfix_str(text)
        else:
            self._bar.write(f"step {step}/{self._total}  {split:5}  {text}")


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


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
