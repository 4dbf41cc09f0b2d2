"""Images of many requests are computed together: in batches that fill while the one before is computed."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

# What a new measurement counts in the mean of seconds an image.
_WEIGHT = 0.2


class Busy(Exception):
    """More is waiting than can be answered in time; to be told to come again."""


@dataclass
class _Waiting:
    view: np.ndarray
    since: float
    answer: "Future[np.ndarray]" = field(default_factory=Future)


class Batcher:
    """Computes images in the order in which they come, as many at once as wait, by a thread of its own.

    Where fewer wait than fit into a batch, it waits for more until the first has waited `delay` seconds.
    """

    def __init__(
        self,
        compute: Callable[[np.ndarray], np.ndarray],
        *,
        batch_size: int,
        delay: float,
        latency: float,
        computed: Callable[[int, float], None] = lambda images, seconds: None,
    ):
        """Starts the thread.

        Args:
          compute: views [N, ...] -> logits [N, C], for N up to the batch size.
          batch_size: images that are computed at once, at most.
          delay: seconds that an image waits for others.
          latency: seconds within which an image is to be answered.
          computed: is told of each batch, its images and seconds.
        """
        self._compute, self._batch_size, self._delay, self._latency = compute, batch_size, delay, latency
        self._computed = computed
        self.seconds_an_image = 0.0
        self._queue: deque[_Waiting] = deque()
        self._accepted, self._closing = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="jaxtl-batches", daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        """The number of images that are taken and not answered yet."""
        return self._accepted

    def is_alive(self) -> bool:
        """Tells whether images are computed."""
        return self._thread.is_alive()

    def accept(self, images: int) -> None:
        """Takes so many images, which are then to be submitted, or released.

        Raises:
          Busy: they could not be answered in time, since others come first.
        """
        with self._changed:
            seconds = (self._accepted + images) * self.seconds_an_image
            if self._closing or (self._accepted and seconds > self._latency):
                raise Busy
            self._accepted += images

    def release(self, images: int) -> None:
        """Counts so many of the accepted images as answered."""
        with self._changed:
            self._accepted -= images

    def submit(self, view: np.ndarray) -> "Future[np.ndarray]":
        """Returns what will be the logits [C] of an image."""
        waiting = _Waiting(view, time.monotonic())
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.answer

    def close(self) -> None:
        """Computes what waits, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def measure(self, view: np.ndarray) -> None:
        """Learns how long an image takes in a whole batch, which must be compiled."""
        began = time.perf_counter()
        self._compute(np.stack([view] * self._batch_size))
        self.seconds_an_image = (time.perf_counter() - began) / self._batch_size

    def _run(self) -> None:
        while batch := self._next():
            began = time.perf_counter()
            try:
                logits = self._compute(np.stack([each.view for each in batch]))
            except Exception as error:  # Whoever waits is told; others may fare better.
                for each in batch:
                    each.answer.set_exception(error)
                continue
            seconds = time.perf_counter() - began
            # Smaller batches take longer an image, and are none when many wait.
            if len(batch) > self._batch_size // 2:
                before = self.seconds_an_image or seconds / len(batch)
                self.seconds_an_image = before + _WEIGHT * (seconds / len(batch) - before)
            self._computed(len(batch), seconds)
            for each, row in zip(batch, logits, strict=True):
                each.answer.set_result(row)

    def _next(self) -> list[_Waiting]:
        """Waits for a batch, and returns it; [] when all is computed and nothing more comes."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch and (self._queue or not self._closing):
                self._wait()
                while self._queue and len(batch) < self._batch_size:
                    waiting = self._queue.popleft()
                    # Nobody waits for what was cancelled, as where a client went away.
                    if waiting.answer.set_running_or_notify_cancel():
                        batch.append(waiting)
        return batch

    def _wait(self) -> None:
        """Waits until the queue holds a batch, or its first image has waited long enough, or nothing more comes."""
        while not self._closing and len(self._queue) < self._batch_size:
            left = self._queue[0].since + self._delay - time.monotonic() if self._queue else None
            if left is not None and left <= 0:
                return
            self._changed.wait(left)
