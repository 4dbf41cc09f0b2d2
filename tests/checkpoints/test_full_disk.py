"""Checkpoints on a disk that is really full."""

import pytest
from small_disk import on_small_disk

PROGRAM = """
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import UserError
from jaxtl.checkpoints.manager import Checkpoints

threading.excepthook = lambda _: None  # Orbax leaves tasks behind that fail, too.
disk, variables, rest = Path("{disk}"), {{"params": {{"kernel": jnp.arange(6.0)}}}}, {{"moment": jnp.ones((2, 3))}}
told = []
for free in range(0, 60, {stride}):  # Pages of 4 KiB that are left: another file is the first to find no room.
    folder = disk / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, variables, rest, {{}}, 0.5)
    pages = shutil.disk_usage(disk).free // 4096
    (disk / "other").write_bytes(bytes(4096 * (pages - free)))
    problem = ""
    try:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(2, jax.tree.map(jnp.add, variables, variables), rest, {{}}, 0.6)
    except UserError as error:
        problem = str(error)
    told.append(bool(problem))
    assert not problem or "goes on from step 1, the newest that is whole" in problem, problem
    (disk / "other").unlink()
    with Checkpoints(folder) as checkpoints:
        step, found, _, _ = checkpoints.restore_latest(lambda _: (variables, rest))
        assert step == (1 if problem else 2) and not checkpoints.problems, (free, problem, checkpoints.problems)
        np.testing.assert_array_equal(found["params"]["kernel"], np.arange(6.0) * step)
        if problem:
            checkpoints.save(2, variables, rest, {{}}, 0.6)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.ranked() == [2, 1]
    shutil.rmtree(folder)
assert told[0] and not told[-1], told
print("refused", sum(told), "of", len(told))
"""


@pytest.mark.slow
def test_wherever_the_disk_is_full_a_checkpoint_is_whole_or_not_there(tmp_path):
    out = on_small_disk(tmp_path, PROGRAM.format(disk=tmp_path, stride=2))
    print(out)
    assert out.startswith("refused ")
