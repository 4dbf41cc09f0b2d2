"""Curves, pictures and histograms for TensorBoard."""

import importlib
import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from jaxtl.parallel.background import in_background

# So many seconds may pass before what was written is on the disk.
_FLUSH = 10.0
_BINS = 30


def begin_import() -> None:
    """Begins to import what writes the curves, in a thread: it imports PyTorch where that is installed, for seconds."""
    in_background(importlib.import_module, "tensorboardX")


class TensorBoard:
    """Writes one event file.

    What fails is raised here; the thread of tensorboardX' own writer would end at it, and the run wait for ever.
    """

    def __init__(self, folder: Path, *, from_step: int):
        """Opens a new file, which tells TensorBoard that steps from `from_step` on are taken again."""
        # Here, for what only a run that writes should pay: see `begin_import`.
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary, self._proto, self._flushed = Event, summary, Summary, 0.0
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        self._write(step=from_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each curve."""
        for name, value in values.items():
            self._write(step=step, summary=self._summary.scalar(name, value))

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        height, width, channels = pixels.shape
        encoded = self._proto.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue()
        )
        self._write(step=step, summary=self._proto(value=[self._proto.Value(tag=name, image=encoded)]))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes a histogram of values [n]."""
        self._write(step=step, summary=self._summary.histogram(name, np.asarray(values, np.float64), _BINS))

    def close(self, *, hurry: bool = False) -> None:
        """Writes what is left."""
        self._writer.close()

    def _write(self, **event: object) -> None:
        self._writer.write(self._event(wall_time=time.time(), **event).SerializeToString())
        if time.monotonic() - self._flushed > _FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()
