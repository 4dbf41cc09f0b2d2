"""Curves for TensorBoard."""

import importlib
import os
import socket
import time
from pathlib import Path

from jaxtl.parallel.background import in_background

# So many seconds may pass before the curves are on the disk.
_FLUSH = 10.0


def begin_import() -> None:
    """Begins to import what writes the curves, in a thread: it imports PyTorch where that is installed, for seconds."""
    in_background(importlib.import_module, "tensorboardX")


class Events:
    """Writes scalars to one event file.

    What fails is raised here; the thread of tensorboardX' own writer would end at it, and the run wait for ever.
    """

    def __init__(self, folder: Path, *, from_step: int):
        """Opens a new file, which tells TensorBoard that steps from `from_step` on are taken again."""
        # Here, for what only a run that writes should pay: see `begin_import`.
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar, self._flushed = Event, summary.scalar, 0.0
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        self._write(step=from_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes one point of a curve."""
        self._write(step=step, summary=self._scalar(name, value))

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

    def _write(self, **event: object) -> None:
        self._writer.write(self._event(wall_time=time.time(), **event).SerializeToString())
        if time.monotonic() - self._flushed > _FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()
