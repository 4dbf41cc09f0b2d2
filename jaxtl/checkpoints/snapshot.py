"""A copy of arrays on their own devices: it stays as it is, whatever becomes of the originals."""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
# Of the memory that was never in use, what a copy may take: the rest may lie in pieces.
_SHARE = 0.9


def copied(tree: Tree) -> Tree | None:
    """Returns a copy of each array where that array lies, or None where some device has no room for it.

    It returns at once: devices make the copies after what they are at, and before what comes later. An original may be
    donated right away.
    """
    leaves, structure = jax.tree.flatten(tree)
    for device, needed in bytes_by_device(leaves).items():
        if not has_room(needed, device.memory_stats()):
            return None
    places: dict[jax.sharding.Sharding, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            places.setdefault(leaf.sharding, []).append(i)
        else:
            leaves[i] = copy.copy(leaf)
    for sharding, found in places.items():
        for i, leaf in zip(found, _copier(sharding)([leaves[i] for i in found]), strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


@cache
def _copier(sharding: jax.sharding.Sharding):
    # One program for all arrays: one by one they take twenty times as long to start.
    return jax.jit(_copy_all, out_shardings=sharding)


def _copy_all(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.copy(x) for x in arrays]


def bytes_by_device(leaves: Iterable[Any]) -> dict[jax.Device, int]:
    """Returns what the arrays among the leaves take of each device of this process."""
    sizes: Counter[jax.Device] = Counter()
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            size = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for device in leaf.sharding.addressable_devices:
                sizes[device] += size
    return dict(sizes)


def has_room(needed: int, stats: Mapping[str, int] | None) -> bool:
    """Tells whether a device with these memory statistics has room for so many bytes; True where it tells nothing.

    The peak counts, and not what is in use now: the next step takes again what the ones before did, and must not be
    the one that finds no room.
    """
    if not stats or "bytes_limit" not in stats:
        return True
    used = max(stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0))
    return needed <= _SHARE * (stats["bytes_limit"] - used)
