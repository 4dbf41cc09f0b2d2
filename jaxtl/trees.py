"""Trees of variables as flat dictionaries by path, and back."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# Nested dictionaries of arrays, or of what stands for arrays: parameters, or variables by collection.
Params: TypeAlias = Mapping[str, Any]
# Any pytree of arrays, or of what stands for arrays: a state, a batch, variables.
Tree: TypeAlias = Any
# The keys on the way to a leaf, as jax.tree_util and Linen give them.
KeyPath: TypeAlias = Sequence[Any]


def flatten(tree: Params) -> dict[str, Any]:
    """Turns {"a": {"b": leaf}} into {"a/b": leaf}; what is no mapping is a leaf, and empty mappings leave no trace."""
    flat: dict[str, Any] = {}

    def walk(node: Params, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}/")
            else:
                flat[f"{prefix}{key}"] = value

    walk(tree, "")
    return flat


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turns {"a/b": leaf} into {"a": {"b": leaf}}: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree
