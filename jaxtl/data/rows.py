"""Which example each row of each batch shows: a pure function of (seed, step), on any number of hosts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxtl.data.sampling import plain_epoch, sampled_epoch


@dataclass(frozen=True)
class Rows:
    """The rows of one batch on this host: which example each row shows, in which epoch; index -1 is padding.

    Of a data set with a sampling, `epoch` is which time the example is shown.
    """

    index: np.ndarray
    epoch: np.ndarray


def train_rows(
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    sampling: str = "",
) -> Iterator[Rows]:
    """Returns an endless iterator over which example each row of each training batch shows.

    Args:
      labels: of the examples; those of one class an example count where there is a sampling.
      batch_size: rows of the global batch.
      seed: of the order.
      start_step: number of batches to leave out at the beginning.
      shard: (this host, number of hosts).
      sampling: "" shows each once an epoch; else see `sampling.quotas`, and a row's epoch is which time it is shown.
    """
    count = len(labels)
    host, hosts = _check_shard(count, batch_size, shard)
    rows = batch_size // hosts

    def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if sampling:
            return sampled_epoch(labels, sampling, seed=seed, epoch=epoch)
        return plain_epoch(count, seed=seed, epoch=epoch)

    def plans() -> Iterator[Rows]:
        orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        first = start_step * batch_size + host * rows
        while True:
            epoch, place = np.divmod(np.arange(first, first + rows), count)
            epochs = range(int(epoch[0]), int(epoch[-1]) + 1)
            orders = {e: orders[e] if e in orders else order(e) for e in epochs}
            index, times = (np.concatenate([orders[e][k][place[epoch == e]] for e in epochs]) for k in (0, 1))
            yield Rows(index=index, epoch=times)
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
    plans = train_rows(np.zeros(count), batch_size=batch_size, seed=seed, shard=shard)
    first = [next(plans) for _ in range(-(-count // batch_size))]
    return np.concatenate([rows.index[rows.epoch == 0] for rows in first])


def _check_shard(count: int, batch_size: int, shard: tuple[int, int]) -> tuple[int, int]:
    host, hosts = shard
    if not count:
        raise ValueError("the data set has no examples")
    if not 0 <= host < hosts:
        raise ValueError(f"shard={shard}: the host must be in [0, {hosts})")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of the {hosts} hosts")
    return host, hosts
