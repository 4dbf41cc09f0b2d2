"""Checkpoints of a run: which there are, what is whole, and what happens when one cannot be written.

One step holds three items: "variables" (parameters and collections, so that they can be read alone), "rest" (step,
optimizer state, key) and "host" (JSON: the loop's own numbers, the score, and a digest of all of it).
"""

import contextlib
import copy
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

from jaxtl.checkpoints import folders, orbax_io
from jaxtl.checkpoints.digests import digest_json, digests, paths, verify
from jaxtl.checkpoints.retention import Retention, ranked
from jaxtl.checkpoints.snapshot import copied
from jaxtl.errors import UserError
from jaxtl.parallel import processes

Tree = Any


class Checkpoints:
    """The checkpoints below one folder, of all processes: the latest and the best are kept.

    Best is the highest score; among equal scores the earliest step. Every process calls every method but `best` and
    `steps`, at the same point.
    """

    def __init__(self, folder: Path, *, keep_latest: int = 2, keep_best: int = 1, read_only: bool = False):
        """Opens the folder, and makes it unless read_only.

        Raises:
          UserError: it cannot be written to.
        """
        self.problems: list[str] = []
        self._folder, self._saving = folder.absolute(), 0
        self._replaced: Path | None = None
        self._scores: dict[int, float | None] = {}
        self._worker = futures.ThreadPoolExecutor(1, thread_name_prefix="jaxtl-checkpoint")
        self._started: futures.Future[None] | None = None
        try:
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._put_back()
            retention = Retention(self._score, latest=keep_latest, best=keep_best)
            self._manager = orbax_io.open_manager(self._folder, retention, read_only=read_only)
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {folder}: {orbax_io.reason(error)}; "
                "make room, or fix the permissions."
            ) from error

    def __enter__(self) -> "Checkpoints":
        """Returns itself; leaving waits for the saves that are under way."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        problem: Exception | None = None
        try:
            self._wait()
        except Exception as error:
            problem = error
        self._worker.shutdown()
        try:
            orbax_io.close(self._manager)
        except Exception as error:
            problem = problem or self._unwritten(error)
        # What ended the run is told, not what came of it.
        if problem is not None and kind is None:
            raise problem

    def save(
        self, step: int, variables: Tree, rest: Tree, metadata: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Starts writing one checkpoint in the background; it appears whole or not at all.

        What is saved is what the arrays hold now: they may be donated, and `metadata` changed, once this has returned.
        Until it is written, the devices hold a copy of it (on a CPU the machine's memory does).

        Args:
          step: number of finished steps.
          variables: nested dicts of arrays.
          rest: any pytree of arrays.
          metadata: what the loop needs to go on, as JSON.
          score: the metric that "best" compares, higher is better; None where nothing was evaluated.

        Raises:
          UserError: this checkpoint, or the one before it, cannot be written. Of this one it may come later: from the
            next save, or at the end.
        """
        self._wait()
        self._saving, self._scores[step] = step, score
        payload = {"loop": dict(metadata), "score": score}
        # Digests, and the copies to the host, take seconds: the training goes on, and a thread makes them of a copy on
        # the devices. With several processes it waits instead: to save is a collective of all of them, which must come
        # between the same two steps in each. It also waits where the devices have no room for the copy.
        snapshot = None if processes.is_multiprocess() else copied({"variables": variables, "rest": rest})
        if snapshot is None:
            self._write(step, variables, rest, payload)
        else:
            self._started = self._worker.submit(self._write, step, **snapshot, payload=copy.deepcopy(payload))

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is whole, and its copy on the devices gone.

        Raises:
          UserError: it cannot be written.
        """
        self._wait()

    def _write(self, step: int, variables: Tree, rest: Tree, payload: dict[str, Any]) -> None:
        """Makes the digests and gives all to Orbax, which writes on in threads of its own."""
        payload["digests"] = {"variables": digests(variables), "rest": digests(rest)}
        metadata = {**payload, "sha256": digest_json(payload)}
        try:
            self._set_aside(step)
            orbax_io.start_save(self._manager, step, variables=variables, rest=rest, metadata=metadata)
        except Exception as error:
            raise self._unwritten(error) from error

    def _wait(self) -> None:
        """Waits for the save that is under way.

        Raises:
          UserError: it failed.
        """
        started, self._started = self._started, None
        if started is not None:
            started.result()
        try:
            orbax_io.wait(self._manager)
        # A full disk, lost permissions, a lost mount: Orbax and tensorstore raise many kinds of error.
        except Exception as error:
            raise self._unwritten(error) from error
        if self._replaced is not None:
            shutil.rmtree(self._replaced, ignore_errors=True)
            self._replaced = None

    def _unwritten(self, error: Exception) -> UserError:
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
            self._replaced = folders.set_aside(self._folder, step)
        processes.gather()
        self._manager.reload()

    def _put_back(self) -> None:
        if processes.is_main():
            folders.put_back(self._folder)
        processes.gather()

    def steps(self) -> list[int]:
        """Returns the steps that are kept, and the one that is being written, in order."""
        if self._started is not None:
            futures.wait([self._started])  # Orbax does not know of it before; what it failed of, `_wait` tells.
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Returns the best step, or None where no step has a score."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[int]:
        """Returns the steps with a score, the best first."""
        unread = self.unread()
        return ranked({step: self._score(step) for step in self.steps() if step not in unread})

    def unread(self) -> list[int]:
        """Returns the steps whose score cannot be read, in order."""

        def fails(step: int) -> bool:
            try:
                self._score(step)
            except Exception:  # Whoever reads that step tells what is wrong with it.
                return True
            return False

        return [step for step in self.steps() if fails(step)]

    def _score(self, step: int) -> float | None:
        if step not in self._scores:
            self._scores[step] = orbax_io.twice(partial(self._read_metadata, step))["score"]
        return self._scores[step]

    def restore_latest(self, like: Callable[[int], tuple[Tree, Tree]]) -> tuple[int, Tree, Tree, dict[str, Any]] | None:
        """Returns (step, variables, rest, metadata) of the newest whole checkpoint, or None where there is none.

        A checkpoint that cannot be read, or whose arrays differ from their digests, twice in a row is passed over, and
        `problems` says so; it is moved to damaged-STEP: its step can be saved again, and nothing is lost.

        Args:
          like: step -> (variables, rest) of the structure that was saved there. Arrays come back in memory of the host,
            whole, whatever the devices that wrote them.

        Raises:
          UserError: there are checkpoints, but none is whole, or one has another structure.
        """
        self._wait()
        problems = self.problems
        for step in reversed(self.steps()):
            variables, rest = like(step)
            found, problem = None, ""
            try:
                found = orbax_io.twice(partial(self._read, step, variables, rest))
            except UserError:
                raise  # It is whole, but another's.
            # Orbax, tensorstore and JSON raise many kinds of error on broken files; each means: not whole.
            except Exception as error:
                problem = orbax_io.reason(error)
            # All go on from the same step, or none does.
            said = [text for text in processes.gather(problem) if text]
            if said or found is None:
                problems.append(f"checkpoint {step} is damaged: {said[0]}")
                continue
            moved = self._move_damaged([later for later in self.steps() if later > step])
            problems[len(problems) - len(moved) :] = [
                f"{text}; it is kept as {path.name}"
                for text, path in zip(problems[len(problems) - len(moved) :], reversed(moved), strict=True)
            ]
            return step, *found
        if problems:
            raise UserError("\n".join([*problems, "No checkpoint is whole: start again in another --workdir."]))
        return None

    def _read(self, step: int, variables: Tree, rest: Tree) -> tuple[Tree, Tree, dict[str, Any]]:
        metadata = self._read_metadata(step)
        for name, tree in (("variables", variables), ("rest", rest)):
            others = sorted(paths(tree) ^ set(metadata["digests"][name]))
            if others:
                raise UserError(
                    f"checkpoint {step} and this run differ in {len(others)} arrays, such as {others[0]}: another "
                    "version of jaxtl wrote it. Go on with that version, or start in another --workdir."
                )
        variables, rest = orbax_io.read_trees(self._manager, step, variables=variables, rest=rest)
        verify(variables, metadata["digests"]["variables"])
        verify(rest, metadata["digests"]["rest"])
        return variables, rest, metadata["loop"]

    def _move_damaged(self, steps: list[int]) -> list[Path]:
        moved = [folders.damaged_name(self._folder, step) for step in steps]
        processes.gather()  # All have looked.
        if processes.is_main():
            for step, target in zip(steps, moved, strict=True):
                (self._folder / str(step)).rename(target)
        processes.gather()
        self._manager.reload()
        return moved

    def _read_metadata(self, step: int) -> dict[str, Any]:
        metadata = orbax_io.read_metadata(self._manager, step)
        if digest_json({key: metadata[key] for key in metadata if key != "sha256"}) != metadata["sha256"]:
            raise ValueError("the loop's numbers differ from what was saved")
        return metadata

    def read_variables(self, step: int) -> Tree:
        """Returns the variables of one step as numpy arrays, whatever the devices that wrote them.

        Raises:
          UserError: the files are damaged.
        """

        def read() -> Tree:
            metadata = self._read_metadata(step)
            variables = orbax_io.read_variables(self._manager, step)
            verify(variables, metadata["digests"]["variables"])
            return variables

        self._wait()
        try:
            return orbax_io.twice(read)
        except Exception as error:
            raise UserError(f"checkpoint {step} cannot be read: {orbax_io.reason(error)}") from error


def read_best(workdir: Path) -> tuple[int, Tree]:
    """Returns (step, variables as numpy arrays) of the best checkpoint of a run, or of the latest if none has a score.

    Where that one is damaged, it says so and takes the next best.

    Raises:
      UserError: the folder holds no checkpoint, or none that is whole.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a run that has trained.")
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{folder} is empty: the run was stopped before its first checkpoint; start it again.")
        problems: list[str] = []
        # Where the score cannot be read the step comes first, so that its damage is told: it may have been the best.
        first = [*checkpoints.unread(), *checkpoints.ranked()]
        for step in [*first, *(step for step in reversed(steps) if step not in first)]:
            variables, problem = None, ""
            try:
                variables = checkpoints.read_variables(step)
            except UserError as error:
                problem = str(error)
            # All take the same step: each holds a part of it only.
            said = [text for text in processes.gather(problem) if text]
            if said or variables is None:
                problems.append(said[0])
                continue
            for problem in problems:
                print(f"{problem}; step {step} is taken in its place", file=sys.stderr)
            return step, variables
        raise UserError("\n".join([*problems, f"No checkpoint in {folder} is whole: train again."]))
