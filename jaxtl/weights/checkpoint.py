"""Checkpoints of a run, on Orbax; nothing else in jaxtl touches Orbax or the layout below WORKDIR/checkpoints.

One step holds three items: "variables" (parameters and collections, so that they can be read alone), "rest" (step,
optimizer state, key) and "host" (JSON: the loop's own numbers, and a digest of every array).
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from jaxtl import distributed
from jaxtl.errors import UserError

Tree = Any
T = TypeVar("T")


class Checkpoints:
    """The checkpoints below one folder, of all processes: the latest and the best are kept.

    Best is the highest score; among equal scores the earliest step. Every process calls every method but `best` and
    `steps`, at the same point.
    """

    def __init__(self, folder: Path, *, keep_latest: int = 2, keep_best: int = 1, read_only: bool = False):
        """Opens the folder, and makes it unless read_only."""
        self.problems: list[str] = []
        self._folder, self._saving = folder.absolute(), 0
        self._replaced: Path | None = None
        if not read_only:
            self._put_back()
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={
                "variables": ocp.PyTreeCheckpointHandler(),
                "rest": ocp.PyTreeCheckpointHandler(),
                "host": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep_latest),
                        policies.BestN(get_metric_fn=_rank, n=keep_best, keep_checkpoints_without_metrics=False),
                    ]
                ),
                best_fn=_rank,  # Without it Orbax writes no metrics; what is kept follows the policy above.
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself; leaving waits for the saves that are under way."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._wait()
        except UserError:
            # What ended the run is told, not what came of it.
            if kind is None:
                raise
        finally:
            self._manager.close()

    def save(self, step: int, variables: Tree, rest: Tree, host: Mapping[str, Any], score: float | None = None) -> None:
        """Starts writing one checkpoint in the background; it appears whole or not at all.

        Args:
          step: number of finished steps.
          variables: nested dicts of arrays.
          rest: any pytree of arrays.
          host: what the loop needs to go on, as JSON.
          score: the figure that "best" compares, higher is better; None where nothing was evaluated.

        Raises:
          UserError: this checkpoint, or the one before it, cannot be written.
        """
        self._wait()
        self._set_aside(step)
        payload = {
            "loop": dict(host),
            "digests": {"variables": digests(variables), "rest": digests(rest), "loop": _digest_json(host)},
        }
        self._saving = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.PyTreeSave(variables),
                    rest=ocp.args.PyTreeSave(rest),
                    host=ocp.args.JsonSave(payload),
                ),
                metrics=None if score is None else {"score": score, "step": step},
                force=True,
            )
        except Exception as error:
            raise self._unwritten(error) from error

    def _wait(self) -> None:
        """Waits for the save that is under way.

        Raises:
          UserError: it failed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        # A full disk, lost permissions, a lost mount: Orbax and tensorstore raise many kinds of error.
        except Exception as error:
            raise self._unwritten(error) from error
        if self._replaced is not None:
            shutil.rmtree(self._replaced, ignore_errors=True)
            self._replaced = None

    def _unwritten(self, error: Exception) -> UserError:
        children = self._folder.iterdir() if self._folder.is_dir() else ()
        kept = [int(path.name) for path in children if path.name.isdigit()]
        last = f"the one of step {max(kept)} is whole" if kept else "there is none before it"
        return UserError(
            f"the checkpoint of step {self._saving} cannot be written to {self._folder}: {_reason(error)}\n"
            f"{last}. Make room, or mend the permissions, and start again: the run goes on from there."
        )

    def _set_aside(self, step: int) -> None:
        """Moves a checkpoint away that is to be written again; until then it can be put back."""
        if step not in self.steps():
            return
        aside = self._folder / f"replaced-{step}"
        if distributed.is_main():
            (self._folder / str(step)).rename(aside)
            self._replaced = aside
        distributed.gather()
        self._manager.reload()

    def _put_back(self) -> None:
        """Undoes `_set_aside` where the process died before the new checkpoint was whole."""
        if distributed.is_main():
            for aside in self._folder.glob("replaced-*"):
                target = self._folder / aside.name.removeprefix("replaced-")
                if target.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.rename(target)
        distributed.gather()

    def steps(self) -> list[int]:
        """Returns the steps that are kept, in order."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Returns the best step, or None where no step has a score."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[int]:
        """Returns the steps with a score, the best first."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        ranks = {step: _rank(metrics) for step, metrics in scores.items() if metrics}
        return sorted(ranks, key=lambda step: ranks[step], reverse=True)

    def restore_latest(self, like: Callable[[int], tuple[Tree, Tree]]) -> tuple[int, Tree, Tree, dict[str, Any]] | None:
        """Returns (step, variables, rest, host) of the newest checkpoint that is whole, or None where there is none.

        A checkpoint that cannot be read, or whose arrays differ from their digests, twice in a row is passed over, and
        `problems` says so; it is moved to damaged-STEP: its step can be saved again, and nothing is lost.

        Args:
          like: step -> (variables, rest) of the structure that was saved there. Arrays come back in memory of the host,
            whole, whatever the devices that wrote them.

        Raises:
          UserError: there are checkpoints, but none is whole.
        """
        problems = self.problems
        for step in reversed(self.steps()):
            variables, rest = like(step)
            found, problem = None, ""
            try:
                found = _twice(partial(self._read, step, variables, rest))
            # Orbax, tensorstore and JSON raise many kinds of error on broken files; each means: not whole.
            except Exception as error:
                problem = _reason(error)
            # All go on from the same step, or none does.
            said = [text for text in distributed.gather(problem) if text]
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
        host = self._read_host(step)
        args = ocp.args.Composite(variables=_like(variables), rest=_like(rest))
        restored = self._manager.restore(step, args=args)
        _verify(restored["variables"], host["digests"]["variables"])
        _verify(restored["rest"], host["digests"]["rest"])
        return restored["variables"], restored["rest"], host["loop"]

    def _move_damaged(self, steps: list[int]) -> list[Path]:
        moved = []
        for step in steps:
            target = self._folder / f"damaged-{step}"
            number = 1
            while target.exists():
                number += 1
                target = self._folder / f"damaged-{step}-{number}"
            moved.append(target)
        distributed.gather()  # All have looked.
        if distributed.is_main():
            for step, target in zip(steps, moved, strict=True):
                (self._folder / str(step)).rename(target)
        distributed.gather()
        self._manager.reload()
        return moved

    def _read_host(self, step: int) -> dict[str, Any]:
        host = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))["host"]
        if _digest_json(host["loop"]) != host["digests"]["loop"]:
            raise ValueError("the loop's numbers differ from what was saved")
        return host

    def read_variables(self, step: int) -> Tree:
        """Returns the variables of one step as numpy arrays, whatever the devices that wrote them.

        Raises:
          UserError: the files are damaged.
        """

        def read() -> Tree:
            host = self._read_host(step)
            tree = self._manager.item_metadata(step)["variables"].tree
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            variables = self._manager.restore(
                step, args=ocp.args.Composite(variables=ocp.args.PyTreeRestore(restore_args=plain))
            )["variables"]
            _verify(variables, host["digests"]["variables"])
            return variables

        try:
            return _twice(read)
        except Exception as error:
            raise UserError(f"checkpoint {step} cannot be read: {_reason(error)}") from error


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
        ranked = checkpoints.ranked()
        problems: list[str] = []
        for step in [*ranked, *(step for step in reversed(steps) if step not in ranked)]:
            try:
                variables = checkpoints.read_variables(step)
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                print(f"{problem}; step {step} is taken in its place", file=sys.stderr)
            return step, variables
        raise UserError("\n".join([*problems, f"No checkpoint in {folder} is whole: train again."]))


def digests(tree: Tree) -> dict[str, str]:
    """Returns the SHA-256 of the bytes of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(_on_host(leaf)).data).hexdigest()
        for path, leaf in leaves
    }


def _on_host(leaf: Any) -> Any:
    # What is cut over several processes is put together, one array at a time.
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return jax.device_get(leaf)


def _twice(read: Callable[[], T]) -> T:
    """Reads a second time where the first fails: a network drive may stumble."""
    try:
        return read()
    except Exception:
        return read()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _digest_json(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _verify(tree: Tree, expected: Mapping[str, str]) -> None:
    found = digests(tree)
    wrong = [path for path in expected if found.get(path) != expected[path]]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays differ from what was saved: {', '.join(wrong[:3])}")


def _like(tree: Tree) -> ocp.args.PyTreeRestore:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    plain = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), shapes)
    return ocp.args.PyTreeRestore(shapes, restore_args=plain)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["score"], -metrics["step"]
