"""Processes that decode and draw views, where threads would wait for each other at Python's lock.

Pillow decodes and resizes without the lock, but packs the pixels of a view under it: a tenth of a millisecond at 224
pixels, an eighth of the whole, for which all other threads wait, JAX' too. Here each thread of a stream asks a process
(see `reader_process`).

The processes are started once and serve all streams of the program. They are not forked, which is unsafe beside JAX'
threads, nor spawned by `multiprocessing`, which imports the user's program again.
"""

import atexit
import os
import pickle
import sys
import threading
from collections.abc import Sequence
from itertools import count
from typing import Literal

import numpy as np

from jaxtl.data import reader_child, shared_memory
from jaxtl.data.reader_process import Example, ReaderProcess, Recipe, Stream
from jaxtl.errors import UserError

Reader = Literal["auto", "threads", "processes"]
READERS = ("auto", "threads", "processes")

# Up to so many cores, threads keep up: the lock is free most of the time.
_CORES_FOR_THREADS = 4


def choose_reader(reader: Reader, workers: int, cores: int) -> Literal["threads", "processes"]:
    """Returns what reads: "auto" takes processes where more than four of them have a core each.

    Args:
      reader: one of `READERS`.
      workers: threads or processes that are asked for; 0 is one a core.
      cores: that this process may use.

    Raises:
      UserError: processes are asked for, but this system lacks what they need.
    """
    if reader not in READERS:
        raise ValueError(f"reader={reader!r} is none of {', '.join(READERS)}")
    if reader_child.is_reader:
        raise RuntimeError("a view lies in a program that reads as it is imported: guard that with __name__")
    possible = bool(sys.executable) and shared_memory.available()
    if reader == "processes" and not possible:
        raise UserError("reader='processes' needs shared memory as Linux has it (memfd_create): give reader='threads'")
    if reader == "auto":
        return "processes" if possible and min(workers or cores, cores) > _CORES_FOR_THREADS else "threads"
    return reader


class ReaderStream(Stream):
    """What one stream of batches asks the reader processes to make; several threads may ask at a time."""

    def __init__(self, recipe: bytes):
        super().__init__(next(_numbers), recipe)

    def fill(self, out: np.ndarray, examples: Sequence[Example]) -> None:
        """Makes one example for each row of `out`, uint8 [n, ...].

        Raises:
          Exception: what the recipe raised.
          UserError: the process has died.
        """
        reader = _pool.take()
        try:
            reader.make(self, out, examples)
        finally:
            _pool.give_back(reader)

    def close(self) -> None:
        """Lets all processes forget the recipe and the pixels it was given; no thread may be asking any more."""
        _pool.close(self.number)


def open_stream(recipe: Recipe, workers: int) -> ReaderStream | None:
    """Returns a stream that up to `workers` processes serve, to be closed; None if they cannot know the recipe.

    They know what can be pickled and imported: functions of modules, and `functools.partial` or data classes of such,
    but no lambda, and nothing of the program's main file or of a notebook.

    Raises:
      UserError: no process can be started.
    """
    try:
        packed = pickle.dumps(recipe)
    except Exception:  # Each kind of object refuses in its own way.
        return None
    stream = ReaderStream(packed)
    _pool.open(stream.number, workers)
    known = False
    try:
        reader = _pool.take()
        try:
            known = reader.knows(stream)
        finally:
            _pool.give_back(reader)
    finally:
        if not known:
            stream.close()
    return stream if known else None


class _Pool:
    """The processes of this program: started when a thread finds none idle, ended with the program."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[ReaderProcess] = []
        self._started = 0
        self._limit = 0
        self._open: set[int] = set()

    def open(self, stream: int, workers: int) -> None:
        with self._changed:
            self._limit = max(self._limit, workers)
            self._open.add(stream)
            self._changed.notify_all()

    def take(self) -> ReaderProcess:
        """Returns an idle process, or a new one if none is idle and there may be more; else waits for one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._idle or self._started < self._limit)
                if not self._idle:
                    self._started += 1
                    break
                process = self._idle.pop()
            if process.usable():
                return process
            self.give_back(process)  # It died while it had nothing to do, which harmed nobody.
        try:
            return ReaderProcess()
        except BaseException:
            with self._changed:
                self._started -= 1
                self._changed.notify()
            raise

    def give_back(self, process: ReaderProcess) -> None:
        with self._changed:
            usable = process.usable() and self._forget(process)
            if usable:
                self._idle.append(process)
            else:
                self._started -= 1
            self._changed.notify()
        if not usable:
            process.end()

    def close(self, stream: int) -> None:
        """Idle processes forget a stream now, others when they are given back."""
        with self._changed:
            self._open.discard(stream)
            for process in self._idle:
                self._forget(process)

    def _forget(self, process: ReaderProcess) -> bool:
        try:
            for stream in process.known() - self._open:
                process.forget(stream)
        except OSError:
            return False
        return True

    def end(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, []
            self._started -= len(idle)
        for process in idle:
            process.end()


def _start_anew() -> None:
    global _pool, _of_parent
    _of_parent, _pool = _pool, _Pool()


_numbers = count()
_pool = _Pool()
_of_parent: _Pool | None = None  # Kept in a forked process: dropping it would look like children left alone.
atexit.register(lambda: _pool.end())
# A forked process must not speak on its parent's sockets.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
