"""One reader process: which streams it knows, and what is told of its end; `test_reader_processes` has it read."""

import os
import pickle
import signal

import pytest

from jaxtl.data import shared_memory
from jaxtl.data.reader_process import ReaderProcess, Stream
from jaxtl.errors import UserError

pytestmark = pytest.mark.skipif(not shared_memory.available(), reason="needs memfd_create")


@pytest.fixture
def process():
    process = ReaderProcess()
    yield process
    process.end()


def test_it_knows_a_stream_until_it_forgets_it(process):
    assert process.usable()
    assert process.knows(Stream(7, pickle.dumps(len)))
    assert process.known() == {7}
    process.forget(7)
    assert process.known() == set()


def test_a_recipe_that_cannot_be_imported_is_not_known(process):
    assert not process.knows(Stream(1, b"cnowhere\nrecipe\n."))
    assert process.usable()


def test_its_end_is_told(process):
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait()
    assert not process.usable()
    with pytest.raises(UserError, match="a reader process was killed"):
        process.knows(Stream(2, pickle.dumps(len)))
