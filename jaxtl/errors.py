"""The error that a person reads: what was given, what is allowed, what to do; and the end before the end."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
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


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the name that a misspelt word or its initials were meant to be, or "" if none is near.

    >>> nearest("trian", ["train", "eval"]), nearest("mobilenet_v2", ["resnet50v2", "vit_b16"])
    ('train', '')
    >>> nearest("lr", ["loss", "learning_rate"])
    'learning_rate'
    """
    known = list(names)
    initials = [name for name in known if "_" in name and "".join(part[:1] for part in name.split("_")) == word]
    return next(iter(initials or difflib.get_close_matches(word, known, n=1, cutoff=0.7)), "")


def first_line(error: object) -> str:
    """Returns the first line of what an error says, without its full stop; its class where it says nothing.

    >>> first_line(ValueError("\\n  no such file.\\nmore")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return said.rstrip(".")


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
