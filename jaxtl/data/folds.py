"""Folds for cross-validation: "fold 3/5" of the split language, stratified by class, with groups kept whole."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.errors import UserError

_FOLD = re.compile(r"(?P<rest>not )?fold (?P<number>\d+)/(?P<of>\d+)(?: of repeat (?P<repeat>\d+))?")
# Classes with too few images that are named.
_SHOWN = 3


@dataclass(frozen=True)
class Fold:
    """One of several folds, as "fold 3/5" and "fold 3/5 of repeat 2" name it; `rest` is all others, "not fold 3/5"."""

    number: int
    of: int
    repeat: int = 1
    rest: bool = False

    def __str__(self) -> str:
        again = f" of repeat {self.repeat}" if self.repeat > 1 else ""
        return f"{'not ' * self.rest}fold {self.number}/{self.of}{again}"

    @property
    def others(self) -> "Fold":
        """Everything but this."""
        return replace(self, rest=not self.rest)


def parse_fold(text: str) -> Fold | None:
    """Returns the fold that a text such as "not fold 3/5 of repeat 2" names; None if it is of another form.

    Raises:
      UserError: there is no such fold.
    """
    match = _FOLD.fullmatch(text)
    if not match:
        return None
    fold = Fold(int(match["number"]), int(match["of"]), int(match["repeat"] or 1), bool(match["rest"]))
    if fold.of < 2 or not 1 <= fold.number <= fold.of or fold.repeat < 1:
        raise UserError(f'there is no "{text}": of two folds and more they are "fold 1/5" to "fold 5/5"')
    return fold


def members(dataset: Dataset, fold: Fold) -> np.ndarray:
    """Returns the indices of the examples in a fold, ascending; the errors are those of `assign_folds`."""
    inside = assign_folds(dataset, fold.of, repeat=fold.repeat) == fold.number
    return np.flatnonzero(inside != fold.rest)


def assign_folds(dataset: Dataset, of: int, *, repeat: int = 1) -> np.ndarray:
    """Returns the fold of each example, from 1, int64 [n]; they depend on names, labels and groups alone.

    Without groups the folds hold equally many images of each class, but for one. The images of a class, in the order of
    a hash of their names, are cut into runs of equal length. One image more changes the fold of at most `of` - 1
    others, of its class alone: those beside the borders, which move by one place. The hash is another one than that of
    `splits.positions`, so a tenth cut by percentage is a tenth of each fold, and another one for each repeat.

    Groups are assigned whole by scikit-learn's StratifiedGroupKFold, which balances classes greedily; there, one more
    may change many. Of several labels an image the folds are equally large, and not stratified.

    Args:
      dataset: the examples that are cut.
      of: number of folds.
      repeat: which cut into so many folds, from 1.

    Raises:
      UserError: a class has fewer images, or groups, than there are folds.
    """
    labels = np.zeros(len(dataset), np.int32) if dataset.several else dataset.labels
    _check(dataset, labels, of)
    if dataset.groups is not None:
        return _by_group(labels, dataset.groups, of, repeat)
    order = np.lexsort((_hashes(dataset.names, repeat), labels))
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Each class begins at a fold of its own, or the first folds would have one image more of each class.
    begin = _hashes(dataset.classes, repeat) % np.uint64(of)
    folds = np.empty(len(labels), np.int64)
    of_class = labels[order]
    folds[order] = (rank * of // counts[of_class] + begin[of_class].astype(np.int64)) % of + 1
    return folds


def _by_group(labels: np.ndarray, groups: Sequence[str], of: int, repeat: int) -> np.ndarray:
    # Here, since it takes a second that only groups should pay.
    from sklearn.model_selection import StratifiedGroupKFold

    names, owner = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    # What comes first among equals follows the hash, neither the order of the rows nor of the alphabet.
    rank = np.argsort(np.argsort(_hashes(names.tolist(), repeat), kind="stable"), kind="stable")
    folds = np.empty(len(labels), np.int64)
    cut = StratifiedGroupKFold(of).split(np.zeros(len(labels)), labels, rank[owner])
    for number, (_, inside) in enumerate(cut, start=1):
        folds[inside] = number
    return folds


def _check(dataset: Dataset, labels: np.ndarray, of: int) -> None:
    units, what = np.arange(len(labels)), "images"
    if dataset.groups is not None:
        units, what = np.unique(np.asarray(dataset.groups, np.str_), return_inverse=True)[1], "groups"
    pairs = np.unique(np.stack([labels, units]), axis=1)[0]
    counts = np.bincount(pairs, minlength=len(dataset.classes))
    short = [c for c in np.argsort(counts, kind="stable") if 0 < counts[c] < of]
    if dataset.several and short:
        raise UserError(f"{of} folds are more than the {counts[0]} {what} there are: give fewer")
    if short:
        named = ", ".join(f"{counts[c]} of {dataset.classes[c]}" for c in short[:_SHOWN])
        more = f" and {len(short) - _SHOWN} more classes" if len(short) > _SHOWN else ""
        advice = f"give at most {counts[short[0]]}, or" if counts[short[0]] > 1 else "give"
        raise UserError(f"{of} folds are more than the {what} of a class: {named}{more}; {advice} more images of it")


def _hashes(names: Sequence[str], repeat: int) -> np.ndarray:
    """Returns a number for each name, uint64 [n], others for each repeat."""
    digests = (hashlib.sha256(f"{repeat}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names)
    return np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64, len(names))
