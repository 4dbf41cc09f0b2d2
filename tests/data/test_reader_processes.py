"""Reader processes give what threads give, bit for bit, and leave nothing behind, however either side ends."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from test_loader import assert_equal, augmented, broken_at, data_threads, noisy, plain, shown, still, take
from test_preloading import dataset as dataset_of
from test_preloading import jpegs

from jaxtl.data import reader_processes, shared_memory
from jaxtl.data.augment import Augmentation, FixedView, RandomView
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import ImageError
from jaxtl.data.loader import Reading, eval_batches, train_batches, view_batches
from jaxtl.data.preloading import preload
from jaxtl.data.reader_processes import choose_reader
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

pytestmark = pytest.mark.skipif(not shared_memory.available(), reason="this system has no memfd_create")

PIXELS = Pixels(16, 20, (0.0,) * 3, (1.0,) * 3, "bicubic")
VIEW = RandomView(PIXELS, Augmentation(color_jitter=0.2))
PROCESSES = Reading(workers=2, reader="processes")


def photos(kind: str) -> Dataset:
    data, _ = dataset_of(jpegs(21))
    if kind == "files":
        return data
    # Without room in shared memory for all, the last ones are ordinary arrays.
    kept = preload(data, budget_bytes=21 * 40 * 30 * 3)
    assert kept is not data
    return kept if kind == "preloaded" else kept.take(np.array([4, 2, 20, 7, 9]))


def train(dataset: Dataset, count: int, **options) -> list[dict[str, np.ndarray]]:
    who = {key: options.pop(key) for key in ("workers", "reader", "prefetch") if key in options}
    settings = {"batch_size": 10, "seed": 5, "view": VIEW, **options}
    return take(train_batches(dataset, **settings, reading=replace(PROCESSES, **who)), count)


def pids() -> set[int]:
    return {process.process.pid for process in reader_processes._pool._idle}


@pytest.mark.parametrize("kind", ["files", "preloaded", "taken"])
def test_training_batches_equal_those_of_threads(kind):
    data = photos(kind)
    assert_equal(train(data, 7), train(data, 7, reader="threads"))
    assert pids()


@pytest.mark.parametrize("kind", ["files", "preloaded"])
def test_batches_in_order_equal_those_of_threads(kind):
    data = photos(kind)
    for make in (
        functools.partial(view_batches, data, batch_size=8, seed=5, epoch=3, view=VIEW, min_side=12),
        functools.partial(view_batches, data, batch_size=8, seed=5, epoch=0, view=FixedView(PIXELS)),
        functools.partial(eval_batches, data, batch_size=8, view=plain, shard=(1, 2)),
    ):
        assert_equal(list(make(reading=PROCESSES)), list(make(reading=Reading(workers=2, reader="threads"))))


def test_restarts_and_workers_change_nothing():
    data = photos("preloaded")
    whole = train(data, 7, reader="threads")
    assert_equal(train(data, 5, start_step=2, workers=1), whole[2:])
    assert_equal(train(data, 7, workers=3, prefetch=0), whole)


def test_pixels_of_the_store_are_not_sent():
    data = photos("preloaded")
    pixels = data.read(3)
    place, file = shared_memory.find(pixels)
    assert place.shape == pixels.shape == (30, 40, 3)
    np.testing.assert_array_equal(np.frombuffer(file.map, np.uint8)[place.offset :][: pixels.size], pixels.ravel())
    assert shared_memory.find(pixels[3:]) == (replace_offset(place, 3 * 40 * 3, (27, 40, 3)), file)
    assert shared_memory.find(pixels[:, 1:]) is None
    assert shared_memory.find(pixels.copy()) is None


def replace_offset(place, more, shape):
    return place._replace(offset=place.offset + more, shape=shape)


def test_a_full_store_leaves_arrays_as_they_are():
    store = shared_memory.PixelStore(10)
    first, second = np.arange(6, dtype=np.uint8), np.arange(5, dtype=np.uint8)
    assert store.keep(first) is not first
    assert store.keep(second) is second
    assert store.keep(second[:4]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, -1, 2**62, 2**70])
def test_a_store_that_the_system_refuses_keeps_arrays_as_they_are(size):
    pixels = np.arange(6, dtype=np.uint8)
    assert shared_memory.PixelStore(size).keep(pixels) is pixels


def test_the_store_goes_with_its_data_set():
    before = len(os.listdir("/proc/self/fd"))
    data = photos("preloaded")
    train(data, 3)
    during = len(os.listdir("/proc/self/fd"))
    del data
    assert len(os.listdir("/proc/self/fd")) == during - 2  # Ours, and that of mmap.
    assert before <= during
    # Processes let go soon after the stream has ended: each has its outbox mapped, and nothing else.
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/maps").read_text().count("memfd:jaxtl") > 1 for pid in pids()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_broken_image_is_told_when_its_batch_is_due():
    batches = eval_batches(broken_at(19), batch_size=8, view=plain, reading=PROCESSES)
    assert shown([next(batches), next(batches)]) == list(range(16))
    with pytest.raises(ImageError, match=r"^19 is no image") as error:
        next(batches)
    assert not hasattr(error.value, "__notes__")
    assert not data_threads()


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True)
class Fails:
    """Fails in a reader process only."""

    parent: int
    how: str

    def __call__(self, image, rng):
        if os.getpid() != self.parent:
            if self.how == "odd":
                raise Odd("bread", "butter")
            if self.how == "bug":
                raise ZeroDivisionError("in a view")
            if self.how == "exit":
                os._exit(3)
            if self.how == "sleep":
                time.sleep(60)
            os.kill(os.getpid(), getattr(signal, self.how))
        return still(image, rng)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("bug", ZeroDivisionError, "^in a view\nin a reader process:\nTraceback"),
        ("odd", RuntimeError, "^Odd: bread and butter\nin a reader process:\n"),
        ("exit", UserError, r"^a reader process ended while it read \d+ to \d+ with status 3; what it wrote .*fewer w"),
        ("SIGKILL", UserError, r"^a reader process was killed while it read \d+ to \d+ \(signal 9\), as .*fewer w"),
        pytest.param(
            *("SIGSEGV", UserError, r"^a reader process died while it read \d+ to \d+ of signal 11 \(Segm.*fewer w"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_goes_wrong_in_a_process_is_raised(how, kind, message):
    start = time.monotonic()
    with pytest.raises(kind, match=message):
        train(noisy(23), 2, view=Fails(os.getpid(), how))
    assert not data_threads()
    # Others take the place of those that died.
    assert_equal(train(noisy(23), 2), train(noisy(23), 2, reader="threads"))
    assert time.monotonic() - start < 10


def test_a_process_that_is_killed_from_outside():
    train(noisy(23), 2)
    before = pids()

    def kill():
        while len(pids()) == len(before):
            time.sleep(0.01)
        for process in before - pids():
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    start = time.monotonic()
    with pytest.raises(UserError, match="signal 9"):
        train(noisy(23), 1, view=Fails(os.getpid(), "sleep"), workers=1)
    assert time.monotonic() - start < 5
    killer.join()


def test_one_that_died_idle_is_replaced():
    train(noisy(23), 1)
    dead = pids()
    for process in list(reader_processes._pool._idle):
        process.process.kill()
        process.process.wait()
    assert_equal(train(noisy(23), 2), train(noisy(23), 2, reader="threads"))
    assert not dead & pids()


def test_processes_ignore_what_the_terminal_sends():
    train(noisy(23), 1)
    before = pids()
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    train(noisy(23), 1)
    assert before <= pids()
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in before)


def test_streams_share_the_processes_and_leave_nothing_open():
    data = photos("preloaded")
    train(data, 2)
    before, open_files = pids(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        train(data, 1)
    list(eval_batches(data, batch_size=8, view=plain, reading=PROCESSES))
    assert pids() == before
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert not reader_processes._pool._open
    assert all(not process.known() for process in reader_processes._pool._idle)


def test_streams_side_by_side():
    data = photos("preloaded")
    streams = [train_batches(data, batch_size=8, seed=seed, view=VIEW, reading=PROCESSES) for seed in range(3)]
    taken = [[next(stream) for stream in streams] for _ in range(4)]
    for seed, stream in enumerate(streams):
        stream.close()
        assert_equal([row[seed] for row in taken], train(data, 4, batch_size=8, seed=seed, reader="threads"))
    assert not reader_processes._pool._open


def test_a_view_that_processes_cannot_know_is_made_by_threads(monkeypatch):
    monkeypatch.setattr(reader_processes.ReaderStream, "fill", None)
    local = lambda image, rng: augmented(image, rng)  # noqa: E731
    assert_equal(train(noisy(23), 3, view=local), train(noisy(23), 3, view=augmented, reader="threads"))
    # It pickles by its name here, but has none there.
    monkeypatch.setattr(augmented, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "augmented", augmented, raising=False)
    ours = train(noisy(23), 3, view=augmented)
    assert_equal(ours, train(noisy(23), 3, view=augmented, reader="threads"))
    assert not reader_processes._pool._open


@pytest.mark.parametrize(
    ("reader", "workers", "cores", "chosen"),
    [
        ("auto", 0, 4, "threads"),
        ("auto", 0, 5, "processes"),
        ("auto", 16, 2, "threads"),
        ("auto", 2, 16, "threads"),
        ("auto", 8, 16, "processes"),
        ("threads", 16, 16, "threads"),
        ("processes", 1, 1, "processes"),
    ],
)
def test_the_choice(reader, workers, cores, chosen):
    assert choose_reader(reader, workers, cores) == chosen


def test_the_choice_without_shared_memory(monkeypatch):
    monkeypatch.setattr(shared_memory, "available", lambda: False)
    assert choose_reader("auto", 16, 16) == "threads"
    with pytest.raises(UserError, match="give reader='threads'"):
        train_batches(noisy(9), batch_size=3, seed=0, view=VIEW, reading=Reading(reader="processes"))
    with pytest.raises(ValueError, match="reader='thread' is none of auto, threads, processes"):
        choose_reader("thread", 1, 1)


@dataclass(frozen=True)
class Looks:
    """Says in its pixels whether the process that draws it has JAX, and more threads than one."""

    parent: int

    def __call__(self, image, rng):
        strange = os.getpid() != self.parent and ("jax" in sys.modules or threading.active_count() > 1)
        strange = strange or (os.getpid() != self.parent and len(os.listdir("/proc/self/task")) > 1)
        return np.full((2, 2, 3), strange, np.uint8)


PROGRAM = """
import functools, sys, time
import numpy as np
from jaxtl.data import Augmentation, Dataset, RandomView, Reading, reader_processes, train_batches
from jaxtl.preprocessing import Pixels

view = RandomView(Pixels(8, 8, (0.0,), (1.0,), "bilinear"), Augmentation())
PROCESSES = Reading(workers=2, reader="processes")
data = Dataset(("a",), np.zeros(9, np.int32), tuple("123456789"), lambda i: np.full((9, 9, 3), i, np.uint8))
stream = train_batches(data, batch_size=9, seed=0, view=view, reading=PROCESSES)
next(stream)
while len(reader_processes._pool._idle) < reader_processes._pool._started:
    time.sleep(0.01)
print("jax" in sys.modules, *(process.process.pid for process in reader_processes._pool._idle), flush=True)
{}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rest", "status"), [("time.sleep(60)", -9), ("", 0), ("stream.close()", 0), ("raise SystemExit(3)", 3)]
)
def test_no_process_outlives_the_program(rest, status):
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM).format(rest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        has_jax, *children = program.stdout.readline().split()
        if status == -9:
            program.kill()
        errors = program.stderr.read()
    assert (has_jax, program.returncode, errors) == ("False", status, "")
    assert children
    until = time.monotonic() + 5
    while any(alive(int(child)) for child in children):
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_has_one_thread_and_no_jax():
    (batch,) = take(train_batches(noisy(20), batch_size=9, seed=0, view=Looks(os.getpid()), reading=PROCESSES), 1)
    assert not batch["image"].any()


def test_a_program_that_reads_while_it_is_imported_is_refused(monkeypatch):
    monkeypatch.setattr(reader_processes.reader_child, "is_reader", True)
    with pytest.raises(RuntimeError, match="guard that with __name__"):
        train_batches(noisy(9), batch_size=3, seed=0, view=VIEW)
