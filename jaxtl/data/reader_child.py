"""The life of a reader process: it makes the examples it is asked for, and ends when nobody can ask any more.

It imports neither JAX nor anything else that takes long. `reader_process` starts it and speaks with it.
"""

import mmap
import pickle
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np

from jaxtl.data.shared_memory import Place
from jaxtl.errors import UserError

is_reader = False  # Whether this process is one.


def main(socket: int, outbox: int) -> None:
    """Answers messages until the other end of the socket closes.

    Args:
      socket: descriptor on which pickled messages come, and answers go: nothing if all is well, or a pickled exception.
      outbox: descriptor of the shared file that receives the examples.
    """
    global is_reader
    is_reader = True
    with Connection(socket) as connection:
        try:
            _serve(connection, outbox)
        except (EOFError, ConnectionError):
            return


def _serve(connection: Connection, outbox: int) -> None:
    recipes: dict[int, Any] = {}  # By stream.
    maps: dict[int, dict[int, mmap.mmap]] = {}  # By stream, and number of the shared file.
    room = None
    while True:
        match pickle.loads(_receive(connection)):
            case "open", stream, recipe:
                try:
                    recipes[stream], maps[stream] = pickle.loads(recipe), {}
                except Exception as error:  # Whatever an import may raise.
                    connection.send_bytes(_packed(error))
                else:
                    connection.send_bytes(b"")
            case "map", stream, number, size:
                descriptor = recv_handle(connection)
                with open(descriptor, "rb", buffering=0) as file:
                    maps[stream][number] = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
            case "make", stream, shape, examples:
                size = int(np.prod((len(examples), *shape)))
                if room is None or len(room) < size:
                    room = mmap.mmap(outbox, size)
                rows = np.ndarray((len(examples), *shape), np.uint8, room)
                try:
                    _make(rows, recipes[stream], examples, maps[stream])
                except Exception as error:
                    connection.send_bytes(_packed(error))
                else:
                    connection.send_bytes(b"")
            case "close", stream:
                del recipes[stream], maps[stream]


def _receive(connection: Connection) -> bytes:
    try:
        return connection.recv_bytes()
    except OSError as error:  # Half a message, of a program that was killed while it sent it.
        raise EOFError from error


# A function of its own, for nothing to hold the pixels when it is done: they are to go when their stream closes.
def _make(rows: np.ndarray, recipe: Any, examples: Sequence[Any], maps: Mapping[int, mmap.mmap]) -> None:
    for row, (encoded, *where) in enumerate(examples):
        if isinstance(encoded, Place):
            encoded = np.ndarray(encoded.shape, np.uint8, maps[encoded.number], encoded.offset)
        rows[row] = recipe(encoded, *where)


def _packed(error: Exception) -> bytes:
    # The traceback of a bug would be lost on the way; a user's error needs none.
    text = "" if isinstance(error, UserError) else f"in a reader process:\n{traceback.format_exc().rstrip()}"
    if text:
        error.add_note(text)
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)  # An exception with arguments of its own may go in but not come out.
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}\n{text}"))
    return packed
