"""Batches of views, made by threads ahead of time.

The order of the examples is a pure function of (seed, position) and a view one of (seed, epoch, example), so the whole
state of the input is one integer: neither workers, hosts nor restarts change a batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import decode
from jaxtl.data.preloading import cores

Batch = dict[str, np.ndarray]
TrainView = Callable[[Image.Image, np.random.Generator], np.ndarray]
EvalView = Callable[[Image.Image], np.ndarray]

# Examples that one thread does in one go: enough to hide the cost of a task, few enough to share out a small batch.
_CHUNK = 8
# Kinds of random streams that are drawn from one seed.
_ORDER, _VIEW = 0, 1


@dataclass(frozen=True)
class Rows:
    """The rows of one batch on this host: which example each row shows, in which epoch; index -1 is padding."""

    index: np.ndarray
    epoch: np.ndarray


def train_rows(
    count: int, *, batch_size: int, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> Iterator[Rows]:
    """Returns an endless iterator over which of `count` examples each row of each training batch shows."""
    host, hosts = _check_shard(count, batch_size, shard)
    rows = batch_size // hosts

    def plans() -> Iterator[Rows]:
        orders: dict[int, np.ndarray] = {}
        first = start_step * batch_size + host * rows
        while True:
            epoch, place = np.divmod(np.arange(first, first + rows), count)
            epochs = range(int(epoch[0]), int(epoch[-1]) + 1)
            orders = {e: orders[e] if e in orders else _order(seed, e, count) for e in epochs}
            yield Rows(index=np.concatenate([orders[e][place[epoch == e]] for e in epochs]), epoch=epoch)
            first += batch_size

    return plans()


def rows_in_order(count: int, *, batch_size: int, epoch: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
    """Returns an iterator over `count` examples, each once and in order; the last batch is filled up with index -1."""
    host, hosts = _check_shard(count, batch_size, shard)
    rows = batch_size // hosts

    def plans() -> Iterator[Rows]:
        for first in range(0, count, batch_size):
            index = np.arange(first + host * rows, first + (host + 1) * rows)
            yield Rows(index=np.where(index < count, index, -1), epoch=np.full_like(index, epoch))

    return plans()


def own_rows(count: int, *, batch_size: int, shard: tuple[int, int], seed: int | None = None) -> np.ndarray:
    """Returns which of `count` examples this host reads in the first epoch of training, or without seed, in order.

    Each example is in exactly one host's share.
    """
    if seed is None:
        index = np.concatenate([rows.index for rows in rows_in_order(count, batch_size=batch_size, shard=shard)])
        return index[index >= 0]
    plans = train_rows(count, batch_size=batch_size, seed=seed, shard=shard)
    first = [next(plans) for _ in range(-(-count // batch_size))]
    return np.concatenate([rows.index[rows.epoch == 0] for rows in first])


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    view: TrainView,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    min_side: int = 0,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Yields training batches without end: one random order of all examples after the other, none dropped.

    A batch may hold the end of one epoch and the beginning of the next. Starting at step k gives the batches that
    follow after the first k.

    Args:
      dataset: at least one example.
      batch_size: examples of a batch over all hosts; a multiple of the number of hosts.
      seed: of the order and of the views.
      view: maps an RGB image and a random generator to uint8 [S, S, 3].
      start_step: number of batches to leave out at the beginning; costs nothing.
      shard: (this host, number of hosts); a host yields its contiguous rows of each global batch.
      workers: threads that read, decode and augment; 0 is one for each core that the process may use.
      min_side: large JPEG files may be decoded down to this shorter side, see `decode`; 0 decodes in full.
      prefetch: batches that are made ahead of the one in use.

    Yields:
      {"image": uint8 [B, S, S, 3], "label": int32 [B], "mask": float32 [B], all ones}, B the rows of this host.

    Raises:
      ImageError: an image is broken; raised when its batch is due.
    """
    plans = train_rows(len(dataset), batch_size=batch_size, seed=seed, start_step=start_step, shard=shard)
    return _stream(dataset, plans, _drawn(dataset, seed, view, min_side), workers, prefetch)


def view_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    view: TrainView,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    min_side: int = 0,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Yields every example once, in order, in the view that `train_batches` draws of it in that epoch.

    The arguments are those of `train_batches`, and the batches are filled up as those of `eval_batches`.
    """
    plans = rows_in_order(len(dataset), batch_size=batch_size, epoch=epoch, shard=shard)
    return _stream(dataset, plans, _drawn(dataset, seed, view, min_side), workers, prefetch)


def _drawn(dataset: Dataset, seed: int, view: TrainView, min_side: int) -> Callable[[int, int], np.ndarray]:
    def example(index: int, epoch: int) -> np.ndarray:
        image = decode(dataset.read(index), dataset.names[index], min_side=min_side)
        return view(image, np.random.default_rng([seed, _VIEW, epoch, index]))

    return example


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    view: EvalView,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Yields every example once, in order; the last batch is filled up with rows of mask 0.

    Args:
      dataset: at least one example.
      batch_size: rows of a batch over all hosts; a multiple of the number of hosts.
      view: maps an RGB image to uint8 [S, S, 3].
      shard: (this host, number of hosts); a host yields its contiguous rows of each global batch.
      workers: threads that read and decode; 0 is one for each core that the process may use.
      prefetch: batches that are made ahead of the one in use.

    Yields:
      {"image": uint8 [B, S, S, 3], "label": int32 [B], "mask": float32 [B]}; a padded row is all zeros.

    Raises:
      ImageError: an image is broken; raised when its batch is due.
    """
    plans = rows_in_order(len(dataset), batch_size=batch_size, shard=shard)

    def example(index: int, epoch: int) -> np.ndarray:
        del epoch
        return view(decode(dataset.read(index), dataset.names[index]))

    return _stream(dataset, plans, example, workers, prefetch)


def _check_shard(count: int, batch_size: int, shard: tuple[int, int]) -> tuple[int, int]:
    host, hosts = shard
    if not count:
        raise ValueError("the data set has no examples")
    if not 0 <= host < hosts:
        raise ValueError(f"shard={shard}: the host must be in [0, {hosts})")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of the {hosts} hosts")
    return host, hosts


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


def _stream(
    dataset: Dataset,
    plans: Iterator[Rows],
    example: Callable[[int, int], np.ndarray],
    workers: int,
    prefetch: int,
) -> Generator[Batch, None, None]:
    """Makes the planned batches in threads, at most `prefetch` ahead of the one that is asked for."""
    executor = ThreadPoolExecutor(workers or cores(), thread_name_prefix="jaxtl-data")
    pending: deque[tuple[Batch, list[Future]]] = deque()
    shape = None

    def fill(images: np.ndarray, rows: Rows, places: np.ndarray) -> None:
        for place in places:
            images[place] = example(int(rows.index[place]), int(rows.epoch[place]))

    def start(rows: Rows) -> None:
        nonlocal shape
        real = np.flatnonzero(rows.index >= 0)
        if shape is None:
            # Padding comes last; a host that has nothing else learns the shape from any example.
            shape = example(max(int(rows.index[0]), 0), int(rows.epoch[0])).shape
        # A consumer may still hold, or share memory with, the batches before: each gets memory of its own.
        images = np.zeros((len(rows.index), *shape), np.uint8)
        mask = (rows.index >= 0).astype(np.float32)
        labels = np.where(rows.index >= 0, dataset.labels[rows.index], 0).astype(np.int32)
        chunks = [real[i : i + _CHUNK] for i in range(0, len(real), _CHUNK)]
        tasks = [executor.submit(fill, images, rows, chunk) for chunk in chunks]
        pending.append(({"image": images, "label": labels, "mask": mask}, tasks))

    def finish() -> Batch:
        batch, tasks = pending.popleft()
        for task in tasks:
            task.result()
        return batch

    try:
        for rows in plans:
            start(rows)
            if len(pending) > prefetch:
                yield finish()
        while pending:
            yield finish()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
