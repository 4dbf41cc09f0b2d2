"""One process trains in a workdir: a lock that the system lets go of however its holder ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxtl.errors import UserError
from jaxtl.parallel import processes

NAME = ".lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps a workdir for this run; of its processes the first holds the lock. Reading the run needs none.

    Raises:
      UserError: another run trains there, in this process or elsewhere.
    """
    held: list[int] = []

    def take() -> None:
        if not processes.is_main():
            return
        try:
            held.append(_take(workdir / NAME))
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be claimed: {workdir / NAME}: {error.strerror}. See whether somebody else "
                "trains there, and whether the disk has room; or give another folder."
            ) from error

    processes.on_all_processes(take)
    try:
        yield
    finally:
        for descriptor in held:
            if _lies_at(descriptor, workdir / NAME):
                (workdir / NAME).unlink()
            os.close(descriptor)


def is_held(workdir: Path) -> bool:
    """Tells whether a process that lives trains in a workdir; a run that was killed has let its lock go."""
    try:
        descriptor = os.open(workdir / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # Where files cannot be locked, a file that lies there is all that is known.
        return True
    finally:
        os.close(descriptor)
    return False


def _take(path: Path) -> int:
    """Opens the file with a lock on it; it says who holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise UserError(
                f"--workdir={path.parent}: a run trains there now, {holder}: wait for it or stop it, or give another "
                "folder."
            ) from None
        except OSError as error:
            print(f"note: {path} cannot be locked ({error.strerror}): see that no other run trains there")
            return descriptor
        if _lies_at(descriptor, path):
            break
        os.close(descriptor)  # Its holder took it away in the meantime.
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _lies_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
