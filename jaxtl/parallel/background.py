"""Work of Python in a thread of its own, while this one waits for a compiler or for images."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_background(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Starts a call in a new thread, which ends with it; the future gives its result, or raises what it raised."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxtl-background")
    future = pool.submit(function, *args, **kwargs)
    pool.shutdown(wait=False)
    return future
