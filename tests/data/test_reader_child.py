"""What a reader process answers, asked by hand: messages on a socket, examples in a shared file."""

import contextlib
import functools
import operator
import os
import pickle
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path

import numpy as np
import pytest

from jaxtl.data import shared_memory
from jaxtl.data.shared_memory import Place, SharedFile
from jaxtl.errors import UserError

pytestmark = pytest.mark.skipif(not shared_memory.available(), reason="this system has no memfd_create")

ROOT = Path(__file__).parents[2]
LIMIT = 60  # Seconds that nothing here takes: a test that would hang fails.
IMAGE = np.arange(6, dtype=np.uint8).reshape(2, 3)
RECIPES = """
from jaxtl.errors import UserError

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def refuse(image, why):
    raise UserError(why, arguments=["resize"])

def fail_oddly(image):
    raise Odd("bread", "butter")
"""


def by_name(name):
    """A pickle of a function of the module "recipes", which the child alone can import."""
    return f"crecipes\n{name}\n.".encode()


class Child:
    """A reader process, and this end of its socket."""

    def __init__(self, folder):
        self.outbox = SharedFile(1)
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), self.outbox.descriptor)
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", f"from jaxtl.data.reader_child import main; main{descriptors}"],
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
                stderr=subprocess.PIPE,
            )
        self.connection = Connection(ours.detach())

    def send(self, *message):
        self.connection.send_bytes(pickle.dumps(message))

    def answer(self):
        """Returns what it answers: None if all is well, else the error."""
        assert self.connection.poll(LIMIT)
        packed = self.connection.recv_bytes()
        return pickle.loads(packed) if packed else None

    def open(self, stream, recipe):
        self.send("open", stream, recipe if isinstance(recipe, bytes) else pickle.dumps(recipe))
        return self.answer()

    def make(self, stream, examples, shape=(2, 3)):
        """Asks for examples; returns the rows, or the error."""
        size = len(examples) * int(np.prod(shape))
        if len(self.outbox.map) < size:
            self.outbox.resize(size)
        self.send("make", stream, shape, examples)
        error = self.answer()
        return error or np.frombuffer(self.outbox.map, np.uint8, size).reshape(-1, *shape).copy()

    def end(self):
        """Closes the socket; returns the exit status and what the process complained of."""
        self.connection.close()
        return self.status()

    def status(self):
        _, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, errors.decode()


@contextlib.contextmanager
def started(folder):
    child = Child(folder)
    try:
        yield child
    finally:
        child.connection.close()
        child.process.kill()
        child.process.communicate()


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "recipes.py").write_text(RECIPES)
    with started(folder) as child:
        yield child


def test_it_makes_what_the_recipe_of_the_stream_makes(child):
    assert child.open(1, np.add) is None
    assert child.open(2, functools.partial(np.full_like, dtype=np.uint8)) is None
    np.testing.assert_array_equal(child.make(1, [(IMAGE, 10), (IMAGE, 20)]), [IMAGE + 10, IMAGE + 20])
    np.testing.assert_array_equal(child.make(2, [(IMAGE, 7)]), np.full((1, 2, 3), 7))
    np.testing.assert_array_equal(child.make(1, [(IMAGE, 1)]), [IMAGE + 1])


def test_bytes_are_given_as_they_are(child):
    assert child.open(3, functools.partial(np.frombuffer, dtype=np.uint8)) is None
    np.testing.assert_array_equal(child.make(3, [(b"abcdef",)], (6,)), [list(b"abcdef")])


def test_a_longer_batch_finds_room(child):
    assert child.open(4, np.add) is None
    for count in (1, 3000, 2):  # More than a page of memory.
        rows = child.make(4, [(IMAGE, number % 200) for number in range(count)])
        np.testing.assert_array_equal(rows, [IMAGE + number % 200 for number in range(count)])


def test_pixels_that_lie_in_shared_memory_are_read_there(child):
    files = [SharedFile(100), SharedFile(100)]
    files[0].map[50:56] = IMAGE.tobytes()
    files[1].map[8:14] = (IMAGE + 100).tobytes()
    assert child.open(5, np.add) is None
    for file in files:
        child.send("map", 5, file.number, len(file.map))  # It answers nothing.
        send_handle(child.connection, file.descriptor, child.process.pid)
    places = [Place(files[0].number, 50, (2, 3)), Place(files[1].number, 8, (2, 3))]
    rows = child.make(5, [(places[0], 1), (places[1], 2), (IMAGE, 3)])
    np.testing.assert_array_equal(rows, [IMAGE + 1, IMAGE + 102, IMAGE + 3])
    files[0].map[50] = 9  # Nothing is copied.
    assert child.make(5, [(places[0], 0)])[0, 0, 0] == 9


def test_a_stream_that_is_closed_is_forgotten_with_its_pixels(child):
    file = SharedFile(100)
    assert child.open(6, np.add) is None
    child.send("map", 6, file.number, len(file.map))
    send_handle(child.connection, file.descriptor, child.process.pid)
    assert child.make(6, [(Place(file.number, 0, (2, 3)), 1)]).tolist() == [[[1] * 3] * 2]

    def mapped():
        return Path(f"/proc/{child.process.pid}/maps").read_text().count("memfd:jaxtl")

    before = mapped()
    child.send("close", 6)
    assert isinstance(child.make(6, [(IMAGE, 1)]), KeyError)
    assert mapped() == before - 1
    assert child.open(6, np.subtract) is None  # Its number is free again.
    np.testing.assert_array_equal(child.make(6, [(IMAGE + 1, 1)]), [IMAGE])


def test_what_a_recipe_raises_is_told_with_its_traceback_and_the_process_lives(child):
    assert child.open(7, operator.floordiv) is None
    error = child.make(7, [(IMAGE, 1), (3, 0)])
    assert isinstance(error, ZeroDivisionError)
    (note,) = error.__notes__
    assert note.startswith("in a reader process:\nTraceback")
    np.testing.assert_array_equal(child.make(7, [(IMAGE, 2)]), [IMAGE // 2])


def test_an_error_of_the_user_needs_no_traceback(child):
    assert child.open(8, by_name("refuse")) is None
    error = child.make(8, [(IMAGE, "an image of 2 rows: give more")])
    assert (type(error), str(error), error.arguments) == (UserError, "an image of 2 rows: give more", ("resize",))
    assert not hasattr(error, "__notes__")


def test_an_error_that_cannot_be_sent_is_told_in_words(child):
    assert child.open(9, by_name("fail_oddly")) is None
    error = child.make(9, [(IMAGE,)])
    assert type(error) is RuntimeError
    assert str(error).startswith("Odd: bread and butter\nin a reader process:\nTraceback")


@pytest.mark.parametrize(
    ("packed", "kind"), [(b"cnowhere\nview\n.", ImportError), (b"crecipes\nview\n.", AttributeError)]
)
def test_a_recipe_that_is_not_known_there_is_told_and_the_process_lives(child, packed, kind):
    assert isinstance(child.open(10, packed), kind)
    assert isinstance(child.make(10, [(IMAGE, 1)]), KeyError)


def test_it_ends_quietly_when_nobody_can_ask_any_more(tmp_path):
    with started(tmp_path) as child:
        assert child.open(1, np.add) is None
        assert child.end() == (0, "")


def test_it_ends_quietly_in_the_middle_of_a_message(tmp_path):
    with started(tmp_path) as child:
        # The length of a message of which nothing comes.
        os.write(child.connection.fileno(), (100).to_bytes(4, "big") + b"half")
        assert child.end() == (0, "")
