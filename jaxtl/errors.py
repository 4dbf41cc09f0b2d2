"""The error that a person reads: what was given, what is allowed, what to do; and the end before the end."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path


class UserError(Exception):
    """A problem the user can fix; `main` prints it without a traceback and exits with status 1.

    The message is one or two lines a problem: what was given, what is allowed, what to do next. It names arguments of
    functions, which know no config; `main` adds the config keys that set them.

    Attributes:
      arguments: those that the message asks to change.
    """

    def __init__(self, message: str, *, arguments: Sequence[str] = ()):
        super().__init__(message)
        self.arguments = tuple(arguments)

    @classmethod
    def join(cls, errors: Sequence["UserError"], *more: str) -> "UserError":
        """Returns one error with the messages of all, and more lines."""
        arguments = dict.fromkeys(name for error in errors for name in error.arguments)
        return cls("\n".join([*map(str, errors), *more]), arguments=tuple(arguments))


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
