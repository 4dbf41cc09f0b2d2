"""Checkpoints of a run: which there are, what is whole, and what happens when one cannot be written.

One step holds three items: "variables" (parameters and collections, so that they can be read alone), "rest" (step,
optimizer state, key) and "host" (JSON: the loop's own numbers, the score, and a digest of all of it). Variables that
do not train lie beside the steps, once for all of them: see `frozen`.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxtl.checkpoints import folders, orbax_io
from jaxtl.checkpoints.digests import digest_json, paths, verify
from jaxtl.checkpoints.frozen import Frozen, FrozenFolder, has_digests, part_of
from jaxtl.checkpoints.retention import Retention, Score, ranked
from jaxtl.checkpoints.snapshot import bytes_by_device, copied
from jaxtl.checkpoints.waiting import Waiting
from jaxtl.checkpoints.writer import Unwritten, Writer
from jaxtl.errors import UserError
from jaxtl.parallel import processes
from jaxtl.trees import flatten, nest

Tree = Any
# Bytes of a checkpoint that may wait in memory: up to four of them do, where training is faster than a disk.
_SMALL = 2**26
_NOTHING = Frozen()


class Checkpoints:
    """The checkpoints below one folder, of all processes: the latest and the best are kept.

    Best is the highest score; among equal scores the earliest step. Of a score of several numbers each decides among
    those that are equal in the ones before. Every process calls every method but `best` and
    `steps`, at the same point.
    """

    def __init__(self, folder: Path, *, keep_latest: int = 2, keep_best: int = 1, read_only: bool = False):
        """Opens the folder, and makes it unless read_only.

        Raises:
          UserError: it cannot be written to.
        """
        self.problems: list[str] = []
        self.repairs: list[str] = []
        self._folder, self._read_only = folder.absolute(), read_only
        self._scores: dict[int, Score | None] = {}
        retention = Retention(self._score, latest=keep_latest, best=keep_best)
        self._waiting: Waiting[Unwritten] = Waiting(retention)
        self._frozen = _NOTHING  # In the last one that was saved.
        try:
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._tidy()
            self._manager = orbax_io.open_manager(self._folder, retention, read_only=read_only)
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {folder}: {orbax_io.reason(error)}; "
                "make room, or fix the permissions."
            ) from error
        self._frozen_folder = FrozenFolder(self._folder)
        self._writer = Writer(self._folder, self._manager, self._frozen_folder)

    def __enter__(self) -> "Checkpoints":
        """Returns itself; leaving writes what waits."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        problem: Exception | None = None
        try:
            self.wait()
            self._collect_frozen()
        except Exception as error:
            problem = error
        self._writer.close()
        try:
            orbax_io.close(self._manager)
        except Exception as error:
            problem = problem or self._writer.told(error)
        # What ended the run is told, not what came of it.
        if problem is not None and kind is None:
            raise problem

    def save(
        self,
        step: int,
        variables: Tree,
        rest: Tree,
        metadata: Mapping[str, Any],
        score: Score | None = None,
        frozen: Frozen = _NOTHING,
    ) -> None:
        """Takes a checkpoint, which a thread writes; it appears whole or not at all.

        What is saved is what the arrays hold now: they may be donated, and `metadata` changed, once this has returned.
        Until it is written, the devices hold a copy of it (on a CPU the machine's memory does).

        Where small ones follow each other faster than a tenth of the time can write them, they wait in memory, and
        only those are written that are the latest or the best by then. Whatever step is on the disk, the best up to it
        is as well; and `wait`, and the end, leave the same steps there as if each had been written.

        Args:
          step: number of finished steps.
          variables: nested dicts of arrays.
          rest: any pytree of arrays.
          metadata: what the loop needs to go on, as JSON.
          score: the metric that "best" compares, higher is better; None where nothing was evaluated.
          frozen: tells which of the variables are as they were in the last save that was given the same; those are
            written once.

        Raises:
          UserError: a checkpoint cannot be written. Of this one it may come later: from a save that follows, or at the
            end.
        """
        first = frozen is not self._frozen
        # Once all is written nothing but checkpoints on the disk needs what was frozen before.
        if first or self._writer.has_failed():
            self.wait()
        if first:
            self._collect_frozen()
        unchanged = frozen.unchanged(variables) if first else None
        parts = {"variables": frozen.moving(variables), "rest": rest, "unchanged": unchanged}
        # Digests, and the copies to the host, take seconds: the training goes on, and a thread makes them of a copy on
        # the devices. With several processes it waits instead: to save is a collective of all of them, which must come
        # between the same two steps in each. It also waits where the devices have no room for the copy.
        large = sum(bytes_by_device(jax.tree.leaves(parts)).values()) > _SMALL
        if large or processes.is_multiprocess():
            self.wait()
        snapshot = None if processes.is_multiprocess() else copied(parts)
        if snapshot is None:
            self.wait()
        self._scores[step], self._frozen = score, frozen
        self._waiting.note(step, set(self._manager.all_steps()))
        payload = copy.deepcopy({"loop": dict(metadata), "score": score})
        given = Unwritten(step, **(snapshot or parts), payload=payload, frozen=frozen)
        if snapshot is None:
            self._writer.write(given)
            return
        self._waiting.add(step, given)
        # The first with frozen arrays never waits: it might be gone before they are written, and others need them.
        if large or unchanged is not None or self._writer.is_due():
            self._writer.start(self._waiting.take())

    def wait(self) -> None:
        """Writes what waits, and returns once it is whole, and its copy on the devices gone.

        Raises:
          UserError: it cannot be written.
        """
        self._writer.start(self._waiting.take())
        try:
            self._writer.wait()
        except Exception:
            self._frozen = _NOTHING  # What is frozen may not be there: the next save is the first again.
            raise

    def _collect_frozen(self) -> None:
        """Removes frozen arrays that no checkpoint needs; where one cannot be read it may need them."""
        if self._read_only or not processes.is_main():
            return
        try:
            needed = {orbax_io.read_metadata(folder).get("frozen") for folder in folders.all_in(self._folder)}
        except Exception:  # Orbax and JSON raise many kinds of error on broken files.
            return
        self._frozen_folder.collect({name for name in needed if name})

    def _tidy(self) -> None:
        if processes.is_main():
            folders.put_back(self._folder)
            folders.remove_unfinished(self._folder)
        processes.gather()

    def steps(self) -> list[int]:
        """Returns the steps that are kept, in order, once what waits is written."""
        self._writer.start(self._waiting.take())
        self._writer.settle()  # Orbax does not know of it before; what it failed of, `wait` tells.
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

    def _score(self, step: int) -> Score | None:
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
        self.wait()
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
        known = metadata["digests"]
        for tree, expected in ((variables, {**known["variables"], **known.get("frozen", {})}), (rest, known["rest"])):
            others = sorted(paths(tree) ^ set(expected))
            if others:
                raise UserError(
                    f"checkpoint {step} and this run differ in {len(others)} arrays, such as {others[0]}: another "
                    "version of jaxtl wrote it. Go on with that version, or start in another --workdir."
                )
        moving, rest = orbax_io.read_trees(self._manager, step, rest=rest)
        verify(rest, known["rest"])
        return self._with_frozen(moving, metadata, instead=variables), rest, metadata["loop"]

    def _with_frozen(self, moving: Tree, metadata: Mapping[str, Any], instead: Tree | None = None) -> Tree:
        """Returns all variables of a checkpoint, held to their digests.

        Args:
          moving: those in the checkpoint itself.
          metadata: of the checkpoint.
          instead: variables whose frozen arrays are taken where those on the disk are damaged, if they are the same.
        """
        verify(moving, metadata["digests"]["variables"])
        if not metadata.get("frozen"):
            return moving
        name, expected = metadata["frozen"], metadata["digests"]["frozen"]
        try:
            frozen = self._frozen_folder.read(name, expected)
        except ValueError as error:
            if instead is None or not has_digests(instead, expected):
                raise
            self.repairs.append(f"{error}; the run's weights are the same, and are written again")
            frozen = jax.device_get(part_of(instead, expected))
        return nest({**flatten(moving), **flatten(frozen)})

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
        metadata = orbax_io.read_metadata(self._folder / str(step))
        if digest_json({key: metadata[key] for key in metadata if key != "sha256"}) != metadata["sha256"]:
            raise ValueError("the loop's numbers differ from what was saved")
        return metadata

    def read_variables(self, step: int) -> Tree:
        """Returns the variables of one step as numpy arrays, whatever the devices that wrote them.

        Raises:
          UserError: the files are damaged.
        """

        def read() -> Tree:
            return self._with_frozen(orbax_io.read_variables(self._manager, step), self._read_metadata(step))

        self.wait()
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
