"""Checkpoints of a run, on Orbax; nothing else in jaxtl touches Orbax or the layout below WORKDIR/checkpoints.

One step holds three items: "variables" (parameters and collections, so that they can be read alone), "rest" (step,
optimizer state, key) and "host" (JSON: the loop's own numbers, and a digest of every array).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxtl.errors import UserError

_KEEP_LATEST = 2

Tree = Any


class Checkpoints:
    """The checkpoints below one folder: the latest two and the best are kept.

    Best is the highest score; among equal scores the earliest step.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        """Opens the folder, and makes it unless read_only."""
        self.problems: list[str] = []
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
                        policies.LatestN(_KEEP_LATEST),
                        policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
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

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, variables: Tree, rest: Tree, host: Mapping[str, Any], score: float | None = None) -> None:
        """Starts writing one checkpoint in the background; it appears whole or not at all.

        Args:
          step: number of finished steps.
          variables: nested dicts of arrays.
          rest: any pytree of arrays.
          host: what the loop needs to go on, as JSON.
          score: the figure that "best" compares, higher is better; None where nothing was evaluated.
        """
        payload = {
            "loop": dict(host),
            "digests": {"variables": digests(variables), "rest": digests(rest), "loop": _digest_json(host)},
        }
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

    def steps(self) -> list[int]:
        """Returns the steps that are kept, in order."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Returns the best step, or None where no step has a score."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        ranked = {step: _rank(metrics) for step, metrics in scores.items() if metrics}
        return max(ranked, key=lambda step: ranked[step]) if ranked else None

    def restore_latest(self, like: Callable[[int], tuple[Tree, Tree]]) -> tuple[int, Tree, Tree, dict[str, Any]] | None:
        """Returns (step, variables, rest, host) of the newest checkpoint that is whole, or None where there is none.

        A checkpoint that cannot be read, or whose arrays differ from their digests, is passed over, and `problems` says
        so; it is deleted, so that its step can be saved again.

        Args:
          like: step -> (variables, rest) as they were saved there, as arrays or as shapes with shardings.

        Raises:
          UserError: there are checkpoints, but none is whole.
        """
        problems = self.problems
        for step in reversed(self.steps()):
            variables, rest = like(step)
            try:
                host = self._read_host(step)
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        variables=_like(variables),
                        rest=_like(rest),
                    ),
                )
                _verify(restored["variables"], host["digests"]["variables"])
                _verify(restored["rest"], host["digests"]["rest"])
            # Orbax, tensorstore and JSON raise many kinds of error on broken files; each means: not whole.
            except Exception as error:
                problems.append(f"checkpoint {step} is damaged: {str(error).strip().splitlines()[0]}")
                continue
            for broken in [later for later in self.steps() if later > step]:
                self._manager.delete(broken)
            return step, restored["variables"], restored["rest"], host["loop"]
        if problems:
            raise UserError("\n".join([*problems, "No checkpoint is whole: start again in another --workdir."]))
        return None

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
        try:
            host = self._read_host(step)
            tree = self._manager.item_metadata(step)["variables"].tree
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            variables = self._manager.restore(
                step, args=ocp.args.Composite(variables=ocp.args.PyTreeRestore(restore_args=plain))
            )["variables"]
            _verify(variables, host["digests"]["variables"])
        except Exception as error:
            raise UserError(
                f"checkpoint {step} cannot be read: {str(error).strip().splitlines()[0]}\n"
                f"Delete {self._manager.directory / str(step)} to fall back on the checkpoints that remain."
            ) from error
        return variables


def read_best(workdir: Path) -> tuple[int, Tree]:
    """Returns (step, variables as numpy arrays) of the best checkpoint of a run, or of the latest if none has a score.

    Raises:
      UserError: the folder holds no checkpoint, or the one wanted is damaged.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a run that has trained.")
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{folder} is empty: the run was stopped before its first checkpoint; start it again.")
        best = checkpoints.best()
        step = steps[-1] if best is None else best
        return step, checkpoints.read_variables(step)


def digests(tree: Tree) -> dict[str, str]:
    """Returns the SHA-256 of the bytes of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(jax.device_get(leaf)).data).hexdigest()
        for path, leaf in leaves
    }


def _digest_json(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _verify(tree: Tree, expected: Mapping[str, str]) -> None:
    found = digests(tree)
    wrong = [path for path in expected if found.get(path) != expected[path]]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays differ from what was saved: {', '.join(wrong[:3])}")


def _like(tree: Tree) -> ocp.args.PyTreeRestore:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), tree)
    return ocp.args.PyTreeRestore(shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes))


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["score"], -metrics["step"]
