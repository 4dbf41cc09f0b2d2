"""How checkpoints get to the disk: one after the other, by a thread, and what is said where that fails."""

import contextlib
import shutil
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from jaxtl.checkpoints import folders, orbax_io
from jaxtl.checkpoints.digests import digest_json, digests
from jaxtl.checkpoints.frozen import Frozen, FrozenFolder
from jaxtl.errors import UserError
from jaxtl.parallel import processes
from jaxtl.trees import Tree

# After a write that took t seconds none begins for so many times t: writing takes a tenth of the time at most, and of
# Python's lock.
_PAUSE = 9


@dataclass(frozen=True)
class Unwritten:
    """A checkpoint that is to be written.

    Attributes:
      step: number of finished steps.
      variables: those that are not frozen.
      rest: any pytree of arrays.
      payload: what the loop needs to go on, and the score, as JSON.
      frozen: what is frozen.
      unchanged: the frozen variables, for the first that is written with them; None for those that follow.
    """

    step: int
    variables: Tree
    rest: Tree
    payload: dict[str, Any]
    frozen: Frozen
    unchanged: Tree | None


class Writer:
    """Writes the checkpoints of one folder; each appears whole or not at all."""

    def __init__(self, folder: Path, manager: Any, frozen: FrozenFolder):
        """Takes the folder, its manager of Orbax, and its frozen arrays."""
        self._folder, self._manager, self._frozen = folder, manager, frozen
        self._saving, self._replaced = 0, list[Path]()
        self._worker = futures.ThreadPoolExecutor(1, thread_name_prefix="jaxtl-checkpoint")
        self._jobs: list[futures.Future[None]] = []
        self._begun, self._due = 0.0, 0.0

    def is_due(self) -> bool:
        """Tells whether nothing is being written, and for long enough."""
        return all(job.done() for job in self._jobs) and monotonic() >= self._due

    def start(self, checkpoints: Sequence[Unwritten]) -> None:
        """Has a thread write checkpoints, in this order; what fails is told by `wait`."""
        if checkpoints:
            self._jobs.append(self._worker.submit(self._write_all, checkpoints))

    def _write_all(self, checkpoints: Sequence[Unwritten]) -> None:
        for checkpoint in checkpoints:
            self.write(checkpoint)
            self._finish()
            self._due = monotonic() + _PAUSE * (monotonic() - self._begun)

    def write(self, given: Unwritten) -> None:
        """Makes the digests and gives all to Orbax, which writes on in threads of its own.

        Raises:
          UserError: it cannot be written.
        """
        self._saving, frozen = given.step, given.frozen
        if frozen.paths and not frozen.name and given.unchanged is None:
            raise self.told(OSError("the frozen arrays before it could not be"))
        if given.unchanged is not None:
            found = digests(given.unchanged)
            try:
                frozen.name, frozen.digests = self._frozen.write(given.unchanged, found), found
            except Exception as error:
                raise self.told(error) from error
        self._begun = monotonic()
        payload = {**given.payload, "digests": {"variables": digests(given.variables), "rest": digests(given.rest)}}
        if frozen.paths:
            payload = {**payload, "frozen": frozen.name}
            payload["digests"]["frozen"] = frozen.digests
        metadata = {**payload, "sha256": digest_json(payload)}
        try:
            self._set_aside(given.step)
            orbax_io.start_save(
                self._manager, given.step, variables=given.variables, rest=given.rest, metadata=metadata
            )
        # A full disk, lost permissions, a lost mount: Orbax and tensorstore raise many kinds of error.
        except Exception as error:
            raise self.told(error) from error

    def settle(self) -> None:
        """Waits for the thread; what it failed of, `wait` tells."""
        futures.wait(self._jobs)

    def wait(self) -> None:
        """Waits until everything that was begun is whole.

        Raises:
          UserError: something cannot be written.
        """
        jobs, self._jobs = self._jobs, []
        futures.wait(jobs)
        for job in jobs:
            job.result()
        self._finish()

    def has_failed(self) -> bool:
        """Tells whether the thread has failed of something that `wait` is still to tell."""
        return any(job.done() and job.exception() for job in self._jobs)

    def close(self) -> None:
        """Ends the thread."""
        self._worker.shutdown()

    def _finish(self) -> None:
        try:
            orbax_io.wait(self._manager)
        except Exception as error:
            raise self.told(error) from error
        while self._replaced:
            shutil.rmtree(self._replaced.pop(), ignore_errors=True)

    def told(self, error: Exception) -> UserError:
        """Ends a save that failed, and returns the error that tells so."""
        orbax_io.join_threads()
        if processes.is_main():
            with contextlib.suppress(OSError):  # What can be written to again is put back when it is opened.
                folders.put_back(self._folder)
        try:
            retained = folders.steps_in(self._folder)
            last = (
                f"goes on from step {retained[-1]}, the newest that is whole"
                if retained
                else "begins anew: there was none yet"
            )
        except OSError:
            last = "goes on from the newest that is whole"
        why = orbax_io.reason(error)
        if processes.is_multiprocess() and processes.status_of(error) == processes.PEERS_MISSING:
            return UserError(
                f"the checkpoint of step {self._saving} was not finished, since another process is gone: {why}\n"
                f"Start all again; the run {last}."
            )
        return UserError(
            f"the checkpoint of step {self._saving} cannot be written to {self._folder}: {why}\n"
            f"Make room, or fix the permissions, and start again; the run {last}."
        )

    def _set_aside(self, step: int) -> None:
        """Moves a checkpoint away that is to be written again; until then it can be put back."""
        if step not in self._manager.all_steps():
            return
        if processes.is_main():
            self._replaced.append(folders.set_aside(self._folder, step))
        processes.gather()
        self._manager.reload()
