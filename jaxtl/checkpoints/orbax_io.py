"""Orbax: how one step is written and read; nothing else in jaxtl touches it, or the layout of its folders."""

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxtl.checkpoints.retention import Retention
from jaxtl.parallel import processes

Tree = Any
T = TypeVar("T")
_HOOK = sys.unraisablehook
_LONGEST = 200


def open_manager(folder: Path, retention: Retention, *, read_only: bool) -> ocp.CheckpointManager:
    """Opens the folder of all steps, and makes it unless read_only."""
    if not read_only:
        sys.unraisablehook = _but_echoes
    return ocp.CheckpointManager(
        folder,
        item_handlers={
            "variables": ocp.PyTreeCheckpointHandler(),
            "rest": ocp.PyTreeCheckpointHandler(),
            "host": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=retention,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=False,  # See `folders.remove_unfinished`.
            # A folder that cannot be made is an error at once; else threads wait minutes for it and hold up the end.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        ),
    )


def _but_echoes(raised: Any) -> None:
    # After a save has failed, tensorstore raises one of these for each array that it had still to write.
    if not (raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"):
        _HOOK(raised)


def start_save(
    manager: ocp.CheckpointManager, step: int, *, variables: Tree, rest: Tree, metadata: Mapping[str, Any]
) -> None:
    """Starts writing a step; it goes on in the background."""
    items = ocp.args.Composite(
        variables=ocp.args.PyTreeSave(variables),
        rest=ocp.args.PyTreeSave(rest),
        host=ocp.args.JsonSave(dict(metadata)),
    )
    manager.save(step, args=items, force=True)


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits for the step that is being written, and raises whatever it failed of."""
    manager.wait_until_finished()
    manager.check_for_errors()


def close(manager: ocp.CheckpointManager) -> None:
    """Ends the manager's threads, and raises the first thing that failed in them."""
    first = None
    for _ in range(10):
        try:
            manager.close()
            break
        except Exception as error:  # Orbax raises one error a call, and closes nothing until there is none left.
            first = first or error
    if first is not None:
        raise first


def join_threads() -> None:
    """Waits until nothing can appear any more, whatever failed.

    Orbax stops waiting at the first error while others of its threads still write, so that a step could appear after
    it was told that it did not.
    """
    for thread in threading.enumerate():
        if thread.name in ("async_save", "save_finalize"):
            threading.Thread.join(thread)


def read_trees(manager: ocp.CheckpointManager, step: int, *, rest: Tree) -> tuple[Tree, Tree]:
    """Returns (variables, rest) as numpy arrays: variables in nested dicts, rest in the structure given."""
    items = ocp.args.Composite(variables=_as_written(manager.item_metadata(step)["variables"]), rest=_like(rest))
    found = manager.restore(step, args=items)
    return found["variables"], found["rest"]


def read_variables(manager: ocp.CheckpointManager, step: int) -> Tree:
    """Returns the variables as numpy arrays in nested dicts, whatever the devices that wrote them."""
    items = ocp.args.Composite(variables=_as_written(manager.item_metadata(step)["variables"]))
    return manager.restore(step, args=items)["variables"]


def read_metadata(folder: Path) -> dict[str, Any]:
    """Returns the JSON of the step in a folder; unlike the others, one process may ask for it alone."""
    return dict(ocp.JsonCheckpointHandler().restore(folder / "host"))


def write_tree(folder: Path, tree: Tree) -> None:
    """Writes nested dicts of arrays into a folder of their own, whole or not at all, in place of what is there."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree), force=True)


def read_tree(folder: Path) -> Tree:
    """Returns what `write_tree` wrote, as numpy arrays, whatever the devices that wrote them."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder, args=_as_written(checkpointer.metadata(folder).item_metadata))


def twice(read: Callable[[], T]) -> T:
    """Reads a second time where the first fails: a network drive may stumble."""
    try:
        return read()
    except Exception:
        if processes.is_multiprocess():  # Orbax reads in all processes at once, and would wait for the others.
            raise
        return read()


def reason(error: Exception) -> str:
    """Returns what an error of Orbax or tensorstore comes down to, in one line of at most 200 characters."""
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    # tensorstore tells each function that the error passed through, and what it was asked for in full.
    code = re.search(r"os_error_code='(\d+)'", first)
    first = os.strerror(int(code[1])) if code else first
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 2]} …"


def _like(tree: Tree) -> ocp.args.PyTreeRestore:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    plain = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), shapes)
    return ocp.args.PyTreeRestore(shapes, restore_args=plain)


def _as_written(metadata: Any) -> ocp.args.PyTreeRestore:
    plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
    return ocp.args.PyTreeRestore(restore_args=plain)
