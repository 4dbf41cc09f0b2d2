"""How long steps take, and how long the devices wait between them for a batch."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxtl.parallel.state_step import as_taken, tree_of


@dataclass(frozen=True)
class Timing:
    """When steps were handed over and when they were done, in seconds.

    Attributes:
      dispatched: of each timed step [n].
      done: of the step before the first timed one, and of each timed step [n + 1].
    """

    dispatched: np.ndarray
    done: np.ndarray

    @property
    def seconds(self) -> float:
        """Of a step, on average."""
        return float(self.done[-1] - self.done[0]) / len(self.dispatched)

    @property
    def waiting(self) -> float:
        """The share of the time in which the devices had finished one step and not yet got the next."""
        gaps = np.maximum(self.dispatched - self.done[:-1], 0.0)
        return float(gaps.sum() / (self.done[-1] - self.done[0]))

    def percentiles(self, *levels: float) -> list[float]:
        """Returns the seconds from one step's end to the next one's, at these levels in percent."""
        return [float(value) for value in np.percentile(np.diff(self.done), levels)]


def time_steps(
    step: Callable[[Any, Any], tuple[Any, Mapping[str, jax.Array]]],
    state: Any,
    batches: Iterator[Any],
    *,
    steps: int,
    warmup: int = 3,
) -> tuple[Any, Timing]:
    """Runs steps as the training loop does, the next queued where the device takes it, and times them.

    Args:
      step: (state, batch) -> (state, scalars), compiled.
      state: on the devices; given away.
      batches: on the devices, at least `warmup + steps`.
      steps: number of steps to time.
      warmup: number of steps before; at least 1.

    Returns:
      The last state and the timing.
    """
    pending: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: list[float] = []
    progress = threading.Condition()

    def watch() -> None:
        # A thread of its own sees the end of a step when it comes, whatever the loop is busy with.
        while (scalars := pending.get()) is not None:
            jax.block_until_ready(scalars)
            with progress:
                done.append(time.perf_counter())
                progress.notify()

    watcher = threading.Thread(target=watch, daemon=True, name="jaxtl-timing")
    watcher.start()
    dispatched = []
    total = warmup + steps
    for number in range(total):
        batch = next(batches)
        dispatched.append(time.perf_counter())
        state, scalars = step(as_taken(state, step), batch)
        pending.put(scalars)
        with progress:
            while len(done) < number:
                progress.wait()
    pending.put(None)
    watcher.join()
    return tree_of(state), Timing(np.asarray(dispatched[warmup:]), np.asarray(done[warmup - 1 :]))
