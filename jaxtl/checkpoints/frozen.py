"""What does not train, written once for all checkpoints of a stage: a folder each below CHECKPOINTS/frozen.

A checkpoint names the folder that it needs, and holds the digests of what lies there beside those of its own arrays.
"""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxtl.checkpoints import orbax_io
from jaxtl.checkpoints.digests import digest_json, digests, verify
from jaxtl.parallel import processes
from jaxtl.trees import Tree, flatten, nest

# No number, and no name of a step that was moved away: Orbax takes it for none.
FOLDER = "frozen"


class Frozen:
    """Variables that stay as they are from one save to the next: saves that are given one of these write them once.

    Attributes:
      paths: of those variables, flattened, with the collection in front, as in "params/block0/mlp/kernel".
      name: of the folder that they lie in, once they are written.
      digests: of each of them, from then on.
    """

    def __init__(self, paths: Collection[str] = ()):
        self.paths = frozenset(paths)
        self.name, self.digests = "", dict[str, str]()

    def moving(self, variables: Tree) -> Tree:
        """Returns the variables that may have changed, in nested dicts."""
        if not self.paths:
            return variables
        return nest({path: leaf for path, leaf in flatten(variables).items() if path not in self.paths})

    def unchanged(self, variables: Tree) -> Tree | None:
        """Returns the others, in nested dicts; None where there is none."""
        return nest({path: leaf for path, leaf in flatten(variables).items() if path in self.paths}) or None


class FrozenFolder:
    """The frozen arrays that lie beside the checkpoints in a folder; all processes call `write` and `read`."""

    def __init__(self, checkpoints: Path):
        self._folder = checkpoints / FOLDER
        self._whole: set[str] = set()  # What this process has read or written.

    def write(self, tree: Tree, found: dict[str, str]) -> str:
        """Writes frozen arrays with these digests, unless they are there already; returns the name of their folder."""
        name = digest_json(found)[:16]
        # All ask, and all write, or none: to read and to write are collectives.
        known = processes.all_true(name in self._whole)
        if not known and not processes.all_true(self._is_there(name, found)):
            self._folder.mkdir(exist_ok=True)
            orbax_io.write_tree(self._folder / name, tree)
        self._whole.add(name)
        return name

    def read(self, name: str, expected: Mapping[str, str]) -> Tree:
        """Returns frozen arrays as numpy arrays in nested dicts.

        Raises:
          ValueError: they cannot be read, or differ from their digests.
        """
        try:
            tree = orbax_io.read_tree(self._folder / name)
            verify(tree, expected)
        # Orbax, tensorstore and JSON raise many kinds of error on broken files; each means: not whole.
        except Exception as error:
            raise ValueError(f"its frozen arrays, in {FOLDER}/{name}: {orbax_io.reason(error)}") from error
        self._whole.add(name)
        return tree

    def collect(self, needed: Collection[str]) -> None:
        """Removes what no checkpoint needs, such as that of an earlier stage; of several processes one calls it."""
        for child in self._folder.iterdir() if self._folder.is_dir() else ():
            if child.name not in needed:
                shutil.rmtree(child, ignore_errors=True)
                self._whole.discard(child.name)

    def _is_there(self, name: str, expected: Mapping[str, str]) -> bool:
        if not (self._folder / name).is_dir():
            return False
        try:
            self.read(name, expected)
        except ValueError:
            return False
        return True


def part_of(tree: Tree, paths: Collection[str]) -> dict[str, Any]:
    """Returns the leaves of nested dicts at some paths, as `digests` names them, in nested dicts.

    >>> part_of({"a": {"b": 1, "c": 2}, "d": 3}, ["['a']['c']"])
    {'a': {'c': 2}}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return nest({_joined(path): leaf for path, leaf in leaves if jax.tree_util.keystr(path) in paths})


def has_digests(tree: Tree, expected: Mapping[str, str]) -> bool:
    """Tells whether the arrays of a tree at the paths of some digests have those digests."""
    return digests(part_of(tree, expected)) == dict(expected)


def _joined(path: Any) -> str:
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
