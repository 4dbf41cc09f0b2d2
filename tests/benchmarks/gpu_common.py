"""What the parts of gpu.py share: the table, time budgets, and processes that are asked and answer."""

import importlib
import json
import multiprocessing
import re
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CLASSES = 1000
WARMUP = 3  # Steps that come before those that are timed.


@dataclass(frozen=True)
class Row:
    """What two contestants both train: a model of jaxtl's name, what of it, and on what batch."""

    model: str
    unfreeze: str
    batch: int
    side: int
    device: str  # "cuda" or "cpu"

    @property
    def name(self) -> str:
        return f"{self.model}:{self.unfreeze}"


class OutOfTime(Exception):
    """The time budget of a part is spent."""


class Failed(Exception):
    """A worker raised, or ended without an answer."""


class Deadline:
    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class Report:
    """The table: each line is printed and written to lines.jsonl as it comes, and all go to gpu.json at the end."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self.bad = 0

    def add(self, part: str, what: str, text: str, *, bad: bool = False, **numbers: Any) -> None:
        """Adds a line; `bad` marks a check that failed or a measurement that broke."""
        self.bad += bad
        line = {"part": part, "what": what, "text": text, "bad": bad, **numbers}
        self.lines.append(line)
        print(f"{part}  {what:28}  {text}", flush=True)
        with (self.folder / "lines.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=float) + "\n")

    def log(self, title: str, text: str) -> None:
        """Keeps what a process printed."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"=== {title}\n{text}\n")

    def finish(self) -> None:
        (self.folder / "gpu.json").write_text(json.dumps(self.lines, indent=1, default=float) + "\n", encoding="utf-8")


class Worker:
    """A process of its own that runs `module.function(pipe, *arguments)`, with a time limit on each answer."""

    def __init__(self, target: str, *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, target, *arguments))
        self._process.start()
        theirs.close()

    def receive(self, deadline: Deadline) -> Any:
        """Gives the worker's next answer.

        Raises:
          OutOfTime: it did not come in time.
          Failed: the worker raised, or is gone.
        """
        if not self._pipe.poll(deadline.left):
            raise OutOfTime
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise Failed(f"the process ended with status {self._process.exitcode}") from None
        if isinstance(answer, _Traceback):
            raise Failed(answer.text)
        return answer

    def ask(self, question: Any, deadline: Deadline) -> Any:
        try:
            self._pipe.send(question)
        except OSError:
            raise Failed("the process is gone") from None
        return self.receive(deadline)

    def end(self, patience: float = 10.0) -> None:
        """Ends the process, whose memory on the GPU is free afterwards; by force if it is busy for longer."""
        self._pipe.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@dataclass(frozen=True)
class _Traceback:
    text: str


def _serve(pipe: Connection, target: str, *arguments: Any) -> None:
    module, _, function = target.partition(".")
    try:
        getattr(importlib.import_module(module), function)(pipe, *arguments)
    except (EOFError, BrokenPipeError):
        pass  # Whoever asked is content.
    except Exception:
        pipe.send(_Traceback(traceback.format_exc()))


def last_line(text: str) -> str:
    """Gives the last line of a traceback or a log that names an error, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it printed nothing"]
    # JAX adds a remark of its own after the error.
    errors = [line for line in lines if re.match(r"[\w.]*(error|exception)\b", line, re.IGNORECASE)]
    return (errors or lines)[-1][:200]


def noise(row: Row) -> tuple[Any, Any]:
    """Gives a batch of noise: images [B, H, W, 3] float32 and labels [B] int32."""
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.normal(size=(row.batch, row.side, row.side, 3)).astype(np.float32)
    return images, generator.integers(0, CLASSES, row.batch).astype(np.int32)
