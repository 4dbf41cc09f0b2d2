"""Processes that decode and draw views, where threads would wait for each other at Python's lock.

Pillow decodes and resizes without the lock, but packs the pixels of a view under it: a tenth of a millisecond at 224
pixels, an eighth of the whole, for which all other threads wait, JAX' too. Here each thread of a stream asks a process:
bytes of files go through a socket, decoded pixels lie in memory that both see, and so do the views that come back.

The processes are started once and serve all streams of the program. They are not forked, which is unsafe beside JAX'
threads, nor spawned by `multiprocessing`, which imports the user's program again.
"""

import atexit
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, Literal

import numpy as np

from jaxtl.data import reader_child, shared_memory
from jaxtl.data.dataset import Encoded
from jaxtl.errors import UserError

Reader = Literal["auto", "threads", "processes"]
READERS = ("auto", "threads", "processes")

# An encoded image, its name, its index and the epoch; the recipe makes uint8 [S, S, 3] of them.
Example = tuple[Encoded, str, int, int]
Recipe = Callable[[Encoded, str, int, int], np.ndarray]

# Ctrl-C, or a SIGTERM to all processes of a job, is the parent's to answer, from the first line of the child on: the
# parent may yet finish the step under way. Its end, however it comes, closes the socket.
_CODE = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path[:] = json.loads(sys.argv[1])
from jaxtl.data.reader_child import main
main({}, {})
"""
# Each process has one thread: the processes are as many as the cores already.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ADVICE = "give fewer workers, or reader='threads'"
_TO_CHANGE = ("workers", "reader")
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


class ReaderStream:
    """What one stream of batches asks the reader processes to make; several threads may ask at a time."""

    def __init__(self, recipe: bytes):
        self.number = next(_numbers)
        self.recipe = recipe

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


class _Process:
    """One reader process, used by one thread at a time."""

    def __init__(self) -> None:
        self._outbox = shared_memory.SharedFile(1)
        self._streams: set[int] = set()
        self._maps: set[tuple[int, int]] = set()
        self._asked = False
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), self._outbox.descriptor)
            # "" is the folder the program runs in, which it may leave.
            path = json.dumps([entry or os.getcwd() for entry in sys.path])
            try:
                # A process group of its own: Ctrl-C must not end it before it knows to ignore that.
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _CODE.format(*descriptors), path],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **_ENVIRONMENT},
                    pass_fds=descriptors,
                    process_group=0,
                )
            except OSError as error:
                ours.close()
                raise UserError(
                    f"a reader process cannot be started: {error.strerror}; {_ADVICE}", arguments=_TO_CHANGE
                ) from error
        self._connection = Connection(ours.detach())

    def knows(self, stream: ReaderStream) -> bool:
        """Gives it the recipe, and tells whether it could take it in."""
        if stream.number not in self._streams:
            if self._ask(("open", stream.number, stream.recipe)):
                return False
            self._streams.add(stream.number)
        return True

    def make(self, stream: ReaderStream, out: np.ndarray, examples: Sequence[Example]) -> None:
        if not self.knows(stream):
            raise RuntimeError("a reader process cannot import what another one could")
        if len(self._outbox.map) < out.nbytes:
            self._outbox.resize(out.nbytes)
        try:
            sent = [(self._shared(stream, encoded), *where) for encoded, *where in examples]
        except OSError as error:
            raise UserError(self._obituary(examples), arguments=_TO_CHANGE) from error
        if packed := self._ask(("make", stream.number, out.shape[1:], sent), examples):
            raise pickle.loads(packed)
        out[...] = np.ndarray(out.shape, np.uint8, self._outbox.map)

    def forget(self, stream: int) -> None:
        self._streams.discard(stream)
        self._maps = {key for key in self._maps if key[0] != stream}
        self._send(("close", stream))

    def known(self) -> set[int]:
        return set(self._streams)

    def usable(self) -> bool:
        """Tells whether it lives, and owes no answer to someone who was interrupted."""
        return not self._asked and self.process.poll() is None

    def end(self) -> None:
        """Ends it at once, since it holds nothing of value, and waits until it has ended."""
        self._connection.close()
        self.process.kill()
        self.process.wait()

    def _shared(self, stream: ReaderStream, encoded: Encoded) -> Encoded | shared_memory.Place:
        """Returns what to send in place of an encoded image; pixels that lie in shared memory stay there."""
        found = shared_memory.find(encoded) if isinstance(encoded, np.ndarray) else None
        if found is None:
            return encoded
        place, file = found
        if (stream.number, place.number) not in self._maps:
            self._send(("map", stream.number, place.number, len(file.map)))
            send_handle(self._connection, file.descriptor, self.process.pid)
            self._maps.add((stream.number, place.number))
        return place

    def _ask(self, message: Any, examples: Sequence[Example] = ()) -> bytes:
        self._asked = True
        try:
            self._send(message)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise UserError(self._obituary(examples), arguments=_TO_CHANGE) from error
        self._asked = False
        return answer

    def _send(self, message: Any) -> None:
        self._connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def _obituary(self, examples: Sequence[Example]) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.end()
        status = self.process.returncode
        doing = f" while it read {examples[0][1]} to {examples[-1][1]}" if examples else ""
        if status == -signal.SIGKILL:
            return f"a reader process was killed{doing} (signal 9), as a system short of memory does: {_ADVICE}"
        if status < 0:
            return f"a reader process died{doing} of signal {-status} ({signal.strsignal(-status)}): {_ADVICE}"
        return f"a reader process ended{doing} with status {status}; what it wrote stands above: {_ADVICE}"


class _Pool:
    """The processes of this program: started when a thread finds none idle, ended with the program."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Process] = []
        self._started = 0
        self._limit = 0
        self._open: set[int] = set()

    def open(self, stream: int, workers: int) -> None:
        with self._changed:
            self._limit = max(self._limit, workers)
            self._open.add(stream)
            self._changed.notify_all()

    def take(self) -> _Process:
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
            return _Process()
        except BaseException:
            with self._changed:
                self._started -= 1
                self._changed.notify()
            raise

    def give_back(self, process: _Process) -> None:
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

    def _forget(self, process: _Process) -> bool:
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
