"""The backend that a program is compiled for, on which the fastest form of an operation depends."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_other: ContextVar[str] = ContextVar("other", default="")


def backend() -> str:
    """Returns "cpu", "gpu" or "tpu": where this process computes, unless it compiles for another.

    "none" stands for no special one: every operation in its plain form.
    """
    return _other.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Makes `backend` say `name` for what is traced within."""
    token = _other.set(name)
    try:
        yield
    finally:
        _other.reset(token)
