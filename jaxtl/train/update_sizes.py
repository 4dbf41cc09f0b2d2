"""How far a step moves parameters: the size of each array's update beside that of the array, by group."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import group_of
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.train.state import TrainState
from jaxtl.trees import flatten, nest

# What this process holds of an array, in its own memory: each part of the whole array once over all processes.
Parts: TypeAlias = list[np.ndarray]


def trainable_leaves(state: TrainState, partitioner: Partitioner, groups: Mapping[str, str]) -> dict[str, Parts]:
    """Copies the parameters that train from the devices; in all processes alike.

    The devices keep no second copy: a step may take their buffers right away.

    Args:
      state: on the devices.
      partitioner: of the state.
      groups: path of each parameter, as gathered -> its group, or "frozen".
    """
    # Names that are not there are those of stacks, of blocks that train or do not.
    chosen = {path: leaf for path, leaf in flatten(state.params).items() if groups.get(path) != FROZEN}
    gathered = flatten(partitioner.gather({"params": nest(chosen)})["params"])
    return {path: _parts(leaf) for path, leaf in gathered.items() if groups[path] != FROZEN}


def update_sizes(
    before: Mapping[str, Parts], after: Mapping[str, Parts], groups: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Returns "updates/GROUP" -> log10 of |update| / |parameter| of each of its arrays, [n]; in all processes alike.

    At the height of the learning rate about -3 is usual; -1 is far too high, and below -5 hardly anything moves. What
    was zero before the step, as a new head is at first, or did not move, has no such size.

    Args:
      before: from `trainable_leaves`, before the step.
      after: likewise, after it.
      groups: path of each parameter -> its group, or a label of it.
    """
    sums = np.array([[_squared(before[path], after[path]), _squared(before[path])] for path in before], np.float32)
    if jax.process_count() > 1:
        sums = np.asarray(multihost_utils.process_allgather(sums)).sum(0)
    found: dict[str, list[float]] = {}
    for path, (moved, size) in zip(before, sums, strict=True):
        values = found.setdefault(f"updates/{group_of(groups[path])}", [])
        if moved > 0 and size > 0 and np.isfinite(moved / size):
            values.append(0.5 * float(np.log10(moved / size)))
    return {name: np.array(values) for name, values in found.items()}


def _parts(leaf: Any) -> Parts:
    # Of parts that several devices hold alike, the first counts.
    return [np.array(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]


def _squared(parts: Parts, after: Parts | None = None) -> float:
    """Returns the sum of the squares of an array, or of what it became less it."""
    if after is None:
        return sum(float(np.vdot(x, x)) for x in parts)
    differences = (y.astype(np.float32) - x for x, y in zip(parts, after, strict=True))
    return sum(float(np.vdot(d, d)) for d in differences)
