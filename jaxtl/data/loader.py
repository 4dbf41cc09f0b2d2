"""Batches of views, made by threads or processes ahead of time.

The order of the examples is a pure function of (seed, position) and a view one of (seed, epoch, example), so the whole
state of the input is one integer: neither workers nor their kind, hosts nor restarts change a batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxtl.data.dataset import Dataset, Encoded, batch_labels, batch_mask
from jaxtl.data.decode import decode
from jaxtl.data.preloading import cores
from jaxtl.data.reader_process import Example, Recipe
from jaxtl.data.reader_processes import Reader, choose_reader, open_stream
from jaxtl.data.rows import Rows, rows_in_order, train_rows

Batch = dict[str, np.ndarray]
TrainView = Callable[[Image.Image, np.random.Generator], np.ndarray]
EvalView = Callable[[Image.Image], np.ndarray]

# Examples that one thread does in one go: enough to hide the cost of a task, few enough to share out a small batch.
_CHUNK = 8
# At most so many for a process, which has nothing to do while it waits for its next task.
_CHUNK_OF_A_PROCESS = 32
# The kind of random stream of views, among those that are drawn from one seed; see `sampling`.
_VIEW = 1


@dataclass(frozen=True)
class Reading:
    """Who reads, decodes and augments, and how far ahead.

    Attributes:
      workers: threads or processes; 0 is one for each core that this process may use.
      reader: "processes" do not wait for each other at Python's lock; "auto" takes them, on Linux, where more than four
        workers have a core each. They import the view by its name: threads make one that cannot be pickled, such as a
        lambda, or that lies in the program's main file.
      prefetch: batches that are made ahead of the one in use.
    """

    workers: int = 0
    reader: Reader = "auto"
    prefetch: int = 2

    @property
    def count(self) -> int:
        """The number of threads or processes."""
        return self.workers or cores()

    @property
    def by_processes(self) -> bool:
        """Whether processes read, where they can know the view."""
        return choose_reader(self.reader, self.workers, cores()) == "processes"


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    view: TrainView,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    min_side: int = 0,
    reading: Reading = Reading(),
) -> Generator[Batch, None, None]:
    """Yields training batches without end: one random order of all examples after the other, none dropped.

    Where the data set has a sampling, an epoch holds as many examples, with the classes in other shares.

    A batch may hold the end of one epoch and the beginning of the next. Starting at step k gives the batches that
    follow after the first k.

    Args:
      dataset: at least one example.
      batch_size: examples of a batch over all hosts; a multiple of the number of hosts.
      seed: of the order and of the views.
      view: maps an RGB image and a random generator to uint8 [S, S, 3], and depends on nothing else.
      start_step: number of batches to leave out at the beginning; costs nothing.
      shard: (this host, number of hosts); a host yields its contiguous rows of each global batch.
      min_side: large JPEG files may be decoded down to this shorter side, see `decode`; 0 decodes in full.
      reading: by whom; it changes no batch.

    Yields:
      {"image": uint8 [B, S, S, 3], "label": int32 [B] or of several labels float32 [B, C], "mask": float32 [B], the
      weights of the examples, or ones}, B the rows of this host.

    Raises:
      ImageError: an image is broken; raised when its batch is due.
      UserError: a process has died, as of too little memory, or this system cannot have such processes.
    """
    plans = train_rows(
        dataset.labels,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        shard=shard,
        sampling=dataset.sampling,
    )
    return _stream(dataset, plans, _Drawn(view, seed, min_side), reading, reading.by_processes, dataset.weights)


def view_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    view: TrainView,
    shard: tuple[int, int] = (0, 1),
    min_side: int = 0,
    reading: Reading = Reading(),
) -> Generator[Batch, None, None]:
    """Yields every example once, in order, in the view that `train_batches` draws of it in that epoch.

    The arguments are those of `train_batches`, and the batches are filled up as those of `eval_batches`.
    """
    plans = rows_in_order(len(dataset), batch_size=batch_size, epoch=epoch, shard=shard)
    return _stream(dataset, plans, _Drawn(view, seed, min_side), reading, reading.by_processes)


@dataclass(frozen=True)
class _Drawn:
    view: TrainView
    seed: int
    min_side: int

    def __call__(self, encoded: Encoded, name: str, index: int, epoch: int) -> np.ndarray:
        image = decode(encoded, name, min_side=self.min_side)
        return self.view(image, np.random.default_rng([self.seed, _VIEW, epoch, index]))


@dataclass(frozen=True)
class _Plain:
    view: EvalView

    def __call__(self, encoded: Encoded, name: str, index: int, epoch: int) -> np.ndarray:
        del index, epoch
        return self.view(decode(encoded, name))


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    view: EvalView,
    shard: tuple[int, int] = (0, 1),
    reading: Reading = Reading(),
) -> Generator[Batch, None, None]:
    """Yields every example once, in order; the last batch is filled up with rows of mask 0.

    Args:
      dataset: at least one example.
      batch_size: rows of a batch over all hosts; a multiple of the number of hosts.
      view: maps an RGB image to uint8 [S, S, 3], and depends on nothing else.
      shard: (this host, number of hosts); a host yields its contiguous rows of each global batch.
      reading: by whom; it changes no batch.

    Yields:
      {"image": uint8 [B, S, S, 3], "label": int32 [B] or of several labels float32 [B, C], "mask": float32 [B]}; a
      padded row is all zeros.

    Raises:
      ImageError: an image is broken; raised when its batch is due.
      UserError: as for `train_batches`.
    """
    plans = rows_in_order(len(dataset), batch_size=batch_size, shard=shard)
    return _stream(dataset, plans, _Plain(view), reading, reading.by_processes)


def _stream(
    dataset: Dataset,
    plans: Iterator[Rows],
    recipe: Recipe,
    reading: Reading,
    by_processes: bool,
    weights: np.ndarray | None = None,
) -> Generator[Batch, None, None]:
    """Makes the planned batches, at most `reading.prefetch` ahead of the one that is asked for.

    Threads read what is encoded, since `dataset.read` may be any function; the rest they do, or let a process do.
    """
    processes = open_stream(recipe, reading.count) if by_processes else None
    executor = ThreadPoolExecutor(reading.count, thread_name_prefix="jaxtl-data")
    pending: deque[tuple[Batch, list[Future]]] = deque()
    shape = None

    def encoded(index: int, epoch: int) -> Example:
        return dataset.read(index), dataset.where(index), index, epoch

    def fill(images: np.ndarray, index: np.ndarray, epoch: np.ndarray) -> None:
        places = zip(index.tolist(), epoch.tolist(), strict=True)
        if processes is not None:
            processes.fill(images, [encoded(*place) for place in places])
            return
        for row, place in enumerate(places):
            images[row] = recipe(*encoded(*place))

    def start(rows: Rows) -> None:
        nonlocal shape
        if shape is None:
            # Padding comes last; a host that has nothing else learns the shape from any example.
            shape = recipe(*encoded(max(int(rows.index[0]), 0), int(rows.epoch[0]))).shape
        # A consumer may still hold, or share memory with, the batches before: each gets memory of its own.
        images = np.zeros((len(rows.index), *shape), np.uint8)
        mask = batch_mask(rows.index, weights)
        labels = batch_labels(dataset.labels, rows.index)
        real = int((rows.index >= 0).sum())
        size = _CHUNK
        if processes is not None:  # Two tasks for each of them in the batches that are asked for at a time.
            size = min(max(size, (reading.prefetch + 1) * len(rows.index) // (2 * reading.count)), _CHUNK_OF_A_PROCESS)
        chunks = [slice(start, min(start + size, real)) for start in range(0, real, size)]
        tasks = [executor.submit(fill, images[chunk], rows.index[chunk], rows.epoch[chunk]) for chunk in chunks]
        pending.append(({"image": images, "label": labels, "mask": mask}, tasks))

    def finish() -> Batch:
        batch, tasks = pending.popleft()
        for task in tasks:
            task.result()
        return batch

    try:
        for rows in plans:
            start(rows)
            if len(pending) > reading.prefetch:
                yield finish()
        while pending:
            yield finish()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        if processes is not None:
            processes.close()
