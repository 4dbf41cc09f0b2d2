"""Results of the devices, fetched so that the devices never wait for the host."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


def one_behind(results: Iterable[T]) -> Iterator[T]:
    """Yields trees of arrays in the memory of the host, each when the next one is under way on the devices."""
    pending: list[T] = []
    for result in results:
        pending.append(result)
        if len(pending) > 1:
            yield jax.device_get(pending.pop(0))
    yield from map(jax.device_get, pending)
