"""What a run writes while it trains: metrics.jsonl, and through writers curves, pictures and histograms."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jaxtl.errors import UserError, writing
from jaxtl.parallel import processes
from jaxtl.train.writers.base import Writer

# Name -> what draws a picture, uint8 [H, W, 3].
Pictures: TypeAlias = Mapping[str, Callable[[], np.ndarray]]

# The share of its time that a run draws pictures.
_DRAWING = 0.02


class MetricsLog:
    """Writes each line of metrics to metrics.jsonl and to writers.

    metrics.jsonl holds nothing that depends on the clock, so a run that was stopped and continued leaves the same
    bytes as one that was not. Speeds go to writers and the screen. Of several processes only the first writes.

    Attributes:
      path: of metrics.jsonl.
      kept: the lines that were there already, in the first process.
    """

    def __init__(self, workdir: Path, *, from_step: int = 0, evaluated: bool = True, writers: Sequence[Writer] = ()):
        """Opens the file, and drops what was written after `from_step`: those steps are taken again.

        Args:
          workdir: of the run.
          from_step: the last step whose lines stay.
          evaluated: whether that includes its evaluation.
          writers: where lines and pictures go too; they are closed with the log. Of the first process alone.
        """
        self.path = workdir / "metrics.jsonl"
        self.kept: list[dict[str, Any]] = []
        self._writers, self._began, self._drawing = writers, time.perf_counter(), 0.0
        self._last_drawing = 0.0
        self._waiting: tuple[int, Pictures] | None = None
        self._writes = processes.is_main()
        if not self._writes:
            return
        with writing(self.path):
            self.kept = _truncate(self.path, from_step, evaluated)
            self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        """Returns itself; leaving closes the files."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._writes:
            return
        try:
            with writing(self.path), contextlib.ExitStack() as closing:
                for writer in self._writers:
                    closing.callback(writer.close, hurry=kind is not None)
                closing.callback(self._file.close)
                if kind is None:
                    self._draw()
        except UserError:
            # What ended the run is told, not what came of it.
            if kind is None:
                raise

    def write(
        self, step: int, split: str, values: Mapping[str, float], speeds: Mapping[str, float] | None = None
    ) -> None:
        """Writes one line: `values` to the file and to writers, `speeds` (what depends on the clock) to writers."""
        if not self._writes:
            return
        with writing(self.path):
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self._file.flush()
            points = {f"{split}/{key}": value for key, value in {**values, **(speeds or {})}.items()}
            for writer in self._writers:
                writer.scalars(points, step)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Hands histograms of values [n] to writers; none of no values."""
        with writing(self.path):
            for writer in self._writers:
                for name, found in values.items():
                    if len(found):
                        writer.histogram(name, found, step)

    def pictures(self, step: int, pictures: Pictures) -> None:
        """Draws pictures for writers, unless the run would draw more than a fiftieth of its time.

        The first are always drawn, and those that had to wait when the log is closed, if none came after them.
        """
        if not self._writers or not pictures:
            return
        self._waiting = step, pictures
        # The next ones take about as long as those before.
        if self._drawing + self._last_drawing <= _DRAWING * (time.perf_counter() - self._began):
            self._draw()

    def _draw(self) -> None:
        if self._waiting is None:
            return
        (step, pictures), self._waiting = self._waiting, None
        began = time.perf_counter()
        with writing(self.path):
            for name, draw in pictures.items():
                pixels = draw()
                for writer in self._writers:
                    writer.image(name, pixels, step)
        self._last_drawing = time.perf_counter() - began
        self._drawing += self._last_drawing

    def sync(self) -> None:
        """Forces the lines to the disk, before a checkpoint claims that they exist."""
        if self._writes:
            with writing(self.path):
                os.fsync(self._file.fileno())


def _truncate(path: Path, last_step: int, evaluated: bool) -> list[dict[str, Any]]:
    """Leaves the lines of the steps that stay in the file, and returns what they hold."""
    if not path.exists():
        return []
    kept, values = [], []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        # A killed process may leave half a line, the last one.
        if not line.endswith("\n"):
            continue
        written = json.loads(line)
        if written["step"] < last_step or (written["step"] == last_step and (evaluated or written["split"] == "train")):
            kept.append(line)
            values.append(written)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
    return values
