"""The error that a person reads: what was given, what is allowed, what to do; and the end before the end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """A problem the user can fix; `main` prints it without a traceback and exits with status 1.

    The message is one or two lines a problem: what was given, what is allowed, what to do next.
    """


class Stopped(Exception):
    """No error: the process was asked to end (SIGTERM), and what was done is saved; the exit status is 75."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses while a file of a run is written, as on a full disk, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; make room, or fix the permissions, and start "
            "again: the run goes on from its last checkpoint."
        ) from error
