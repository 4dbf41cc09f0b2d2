"""One reader process: how it is started, asked, and what is said of its end.

Bytes of files go to it through a socket; decoded pixels lie in memory that both see, and so do the views that come
back.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np

from jaxtl.data import shared_memory
from jaxtl.data.dataset import Encoded
from jaxtl.errors import UserError

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


class Stream:
    """What tells a process which recipe to follow: a number that no other stream has, and the recipe, pickled."""

    def __init__(self, number: int, recipe: bytes):
        self.number, self.recipe = number, recipe


class ReaderProcess:
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

    def knows(self, stream: Stream) -> bool:
        """Gives it the recipe, and tells whether it could take it in."""
        if stream.number not in self._streams:
            if self._ask(("open", stream.number, stream.recipe)):
                return False
            self._streams.add(stream.number)
        return True

    def make(self, stream: Stream, out: np.ndarray, examples: Sequence[Example]) -> None:
        """Has it make one example for each row of `out`; raises what the recipe raised, or a UserError if it died."""
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
        """Lets it forget the recipe and the pixels of a stream."""
        self._streams.discard(stream)
        self._maps = {key for key in self._maps if key[0] != stream}
        self._send(("close", stream))

    def known(self) -> set[int]:
        """Gives the numbers of the streams that it knows."""
        return set(self._streams)

    def usable(self) -> bool:
        """Tells whether it lives, and owes no answer to someone who was interrupted."""
        return not self._asked and self.process.poll() is None

    def end(self) -> None:
        """Ends it at once, since it holds nothing of value, and waits until it has ended."""
        self._connection.close()
        self.process.kill()
        self.process.wait()

    def _shared(self, stream: Stream, encoded: Encoded) -> Encoded | shared_memory.Place:
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
