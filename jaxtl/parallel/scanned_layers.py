"""Scanned layers: parameters of neighbouring blocks that are alike, stacked with an axis for the blocks in front.

A loop over the blocks takes such a stack as it is, so that neither compiling nor the number of an optimizer's
operations depends on how many blocks there are. In a tree of parameters a stack takes the place of its blocks, under
the name of the first and the number of the last: "block0-10". No module of a model here is called so.

A model that runs neighbouring blocks as a loop asks `loop_key` which of them may share one, and whoever applies it may
answer with `separating_loops`: differentiation of some blocks only, for instance, splits a loop, since in one loop all
blocks go backwards if one of them does.
"""

import contextlib
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.trees import KeyPath, Params

_NAME = re.compile(r"(.*\D)(\d+)-(\d+)")

LoopKey: TypeAlias = Callable[[str], Hashable]
_loop_key: ContextVar[LoopKey | None] = ContextVar("loop_key", default=None)


def loop_key(path: str) -> Hashable:
    """Returns what neighbouring blocks that are alike must have in common to be run as one loop; None for nothing.

    Args:
      path: of a block's parameters, as in "block3".
    """
    key = _loop_key.get()
    return None if key is None else key(path)


@contextlib.contextmanager
def separating_loops(key: LoopKey) -> Iterator[None]:
    """Makes `loop_key` say what `key` says, for models that are applied within."""
    token = _loop_key.set(key)
    try:
        yield
    finally:
        _loop_key.reset(token)


def name_of(blocks: Sequence[str]) -> str:
    """Returns the name of the stack of some blocks, which are numbered one after the other."""
    return f"{blocks[0]}-{blocks[-1].removeprefix(blocks[0].rstrip('0123456789'))}"


def blocks_of(name: str) -> list[str]:
    """Returns the names of the blocks of a stack, or none where the name is not that of a stack."""
    found = _NAME.fullmatch(name)
    return [f"{found[1]}{i}" for i in range(int(found[2]), int(found[3]) + 1)] if found else []


def is_scanned(path: KeyPath) -> bool:
    """Tells whether a path of keys, as of `jax.tree_util`, leads through a stack."""
    return any(blocks_of(str(getattr(key, "key", ""))) for key in path)


def stack_layers(params: Params, scanned: Sequence[str]) -> dict[str, Any]:
    """Returns the parameters with `scanned` in place of their blocks.

    A tree that has the stacks already, or parameters of other blocks only, stays as it is.
    """
    tree = dict(params)
    for name in scanned:
        names = blocks_of(name)
        if names[0] in tree:
            blocks = [dict(tree.pop(block)) for block in names]
            tree[name] = jax.tree.map(lambda *leaves: _stack(leaves), *blocks)
    return tree


def unstack_layers(params: Params) -> dict[str, Any]:
    """Returns the parameters with the blocks of every stack by themselves: the inverse of `stack_layers`."""
    tree: dict[str, Any] = {}
    for name, value in params.items():
        blocks = blocks_of(name)
        tree |= dict(zip(blocks, rows(value, len(blocks)), strict=True)) if blocks else {name: value}
    return tree


def _stack(leaves: Sequence[np.ndarray | jax.Array]) -> np.ndarray | jax.Array:
    # What lies in the memory of the host stays there until it is sharded over the devices.
    hosts = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
    return np.stack(hosts) if len(hosts) == len(leaves) else jnp.stack(leaves)


def rows(stack: Params, count: int) -> list[dict[str, Any]]:
    """Returns the trees of the `count` blocks of a stack."""
    leaves, structure = jax.tree.flatten(dict(stack))
    # Cut all at once: the gradient is then one concatenation, and no sum.
    parts = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    return [jax.tree.unflatten(structure, [part[i].reshape(part[i].shape[1:]) for part in parts]) for i in range(count)]
