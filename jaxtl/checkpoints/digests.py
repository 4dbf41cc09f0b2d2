"""SHA-256 digests of arrays and of JSON: how a checkpoint knows that it is what was saved."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def digests(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of the bytes of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(_on_host(leaf)).data).hexdigest()
        for path, leaf in leaves
    }


def paths(tree: Any) -> set[str]:
    """Returns the paths that `digests` would have."""
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def verify(tree: Any, expected: Mapping[str, str]) -> None:
    """Compares the arrays with their digests.

    Raises:
      ValueError: names the arrays that differ or are missing.
    """
    found = digests(tree)
    wrong = [path for path in expected if found.get(path) != expected[path]]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays differ from what was saved: {', '.join(wrong[:3])}")


def digest_json(values: Any) -> str:
    """Returns the SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _on_host(leaf: Any) -> Any:
    # What is cut over several processes is put together, one array at a time.
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return jax.device_get(leaf)
