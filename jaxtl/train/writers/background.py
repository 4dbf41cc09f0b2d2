"""A writer behind a queue: what waits for a network, or fails there, neither holds up a run nor ends it."""

import queue
import sys
import threading
from collections.abc import Callable, Mapping

import numpy as np
import tqdm

from jaxtl.train.writers.base import Writer

# Lines and pictures that may wait; beyond that the newest are left out.
_WAITING = 1000
# Seconds in which what is left must be sent: at the end of a run, and where the process is told to end.
_PATIENCE, _HURRY = 60.0, 5.0


class InBackground:
    """Hands all it is given to another writer, in a thread; what goes wrong there is noted once, on stderr."""

    def __init__(self, writer: Writer, name: str):
        """Takes an open writer, and what notes call it."""
        self._writer, self._name, self._noted = writer, name, False
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"jaxtl-{name}")
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each curve."""
        self._add(lambda: self._writer.scalars(values, step))

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._add(lambda: self._writer.image(name, pixels, step))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes a histogram of values [n]."""
        self._add(lambda: self._writer.histogram(name, values, step))

    def close(self, *, hurry: bool = False) -> None:
        """Waits until all is written, but not for ever."""
        self._add(lambda: self._writer.close(hurry=hurry))
        self._add(None)
        self._thread.join(_HURRY if hurry else _PATIENCE)
        if self._thread.is_alive():
            self._note("not all was sent before the run ended")

    def _add(self, call: Callable[[], None] | None) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._note("it does not keep up, so some lines and pictures are left out")

    def _work(self) -> None:
        for call in iter(self._queue.get, None):
            try:
                call()
            # Such a program may raise whatever its network does.
            except Exception as error:
                self._note(f"something could not be sent: {first_line(error)}")

    def _note(self, what: str) -> None:
        if not self._noted:
            self._noted = True
            tqdm.tqdm.write(f"note: {self._name}: {what}; metrics.jsonl has all lines", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """Returns what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
