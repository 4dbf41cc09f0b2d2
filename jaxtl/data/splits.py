"""The split language of TFDS for every source: "train", "train[:90%]", "train[90%:]", "train[:100]", "train+test".

A percentage of a TFDS split is a range of positions, as TFDS has it. Everywhere else it is a range of a fixed hash of
the example's name, or of its group's, so that an example never changes its side when others are added. What TFDS does
not have is "train[fold 3/5]", or "fold 3/5", and the other folds, "not fold 3/5": see `folds`.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxtl.data.dataset import Dataset, concatenate
from jaxtl.data.folds import Fold, members, parse_fold
from jaxtl.errors import UserError

_PART = re.compile(r"(?P<name>[\w.-]+?)(?:\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_OF_FOLD = re.compile(r"(?P<name>[\w.-]+?)\[(?P<of>[^\[\]]*)\]|(?P<alone>[^\[\]]*)")
_BOUND = re.compile(r"-?\d[\d_]*|-?\d+(?:\.\d+)?%")
_LAST_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")
_GOLDEN = 0x9E3779B97F4A7C15  # The golden ratio's fraction in units of 2**-64, odd as multiplicative hashing wants it.
# Names that mean the same split, in whichever of them a source or a person says it.
NAMES = ("train", "validation", "test")
SYNONYMS = {"val": "validation", "valid": "validation", "dev": "validation"}
GRAMMAR = 'write "train", "train[:90%]", "train[90%:]", "train[:100]", "train+test", "fold 3/5" or "not fold 3/5"'


@dataclass(frozen=True)
class Slice:
    """One term of a split: a name, and two bounds that are percentages or counts, or a fold; None is an open end."""

    name: str
    start: float | None = None
    stop: float | None = None
    percent: bool = False
    fold: Fold | None = None


def parse(spec: str) -> tuple[Slice, ...]:
    """Returns the terms of a split such as "train[:90%]+test".

    Raises:
      UserError: the text is not of the split language.
    """
    return tuple(_parse_term(term.strip(), spec) for term in spec.split("+"))


def _parse_term(term: str, spec: str) -> Slice:
    fold = _OF_FOLD.fullmatch(term)
    if fold and (parsed := parse_fold(fold["of"] or fold["alone"])):
        return Slice(fold["name"] or "train", fold=parsed)
    match = _PART.fullmatch(term)
    if not match:
        raise UserError(f"split {spec!r} cannot be read: {GRAMMAR}")
    if match["start"] is None:
        return Slice(match["name"])
    bounds = [match["start"].strip(), match["stop"].strip()]
    given = [bound for bound in bounds if bound]
    if not given or not all(_BOUND.fullmatch(bound) for bound in given):
        raise UserError(f"split {spec!r}: the bounds of [{bounds[0]}:{bounds[1]}] cannot be read; {GRAMMAR}")
    percent = {bound.endswith("%") for bound in given}
    if len(percent) > 1:
        raise UserError(f"split {spec!r} mixes a percentage and a count in [{bounds[0]}:{bounds[1]}]; use one of them")
    start, stop = (float(bound.rstrip("%")) if bound else None for bound in bounds)
    if percent == {True} and any(abs(bound) > 100 for bound in (start, stop) if bound is not None):
        raise UserError(f"split {spec!r}: percentages go from -100 to 100")
    return Slice(match["name"], start, stop, percent == {True})


def canonical(name: str) -> str:
    """Returns the one spelling of a split's name: "val", "valid" and "dev" are "validation"."""
    return SYNONYMS.get(name, name)


def select(spec: str, datasets: Mapping[str, Dataset], *, by_position: bool, source: str) -> Dataset:
    """Returns the examples that a split such as "train[:90%]+test" names.

    Args:
      spec: terms of the split language, joined by "+"; "all" is every split there is.
      datasets: the whole splits by name.
      by_position: slices are ranges of positions, as in TFDS; otherwise ranges of the hash, see `positions`.
      source: where the data come from, for error messages.

    Raises:
      UserError: the split cannot be read, is unknown, is empty, or reaches past the end; or a class has too few images
        for so many folds.
    """
    parts = []
    for term in parse(spec):
        dataset = whole(term.name, datasets, source)
        if term.fold is not None:
            parts.append(dataset.take(members(dataset, term.fold)))
            continue
        if term.start is None and term.stop is None:
            parts.append(dataset)
            continue
        indices = _slice_positions(term, len(dataset), spec) if by_position else _slice_hash(term, dataset, spec)
        parts.append(dataset.take(indices))
    chosen = concatenate(parts)
    if not len(chosen):
        raise UserError(f"split {spec!r} of {source} is empty; widen its bounds")
    return chosen


def whole(name: str, datasets: Mapping[str, Dataset], source: str) -> Dataset:
    """Returns the split of that name in any of its spellings, or all of a source without splits.

    Raises:
      UserError: there is no such split.
    """
    by_canonical = {canonical(known): known for known in datasets}
    if canonical(name) in by_canonical:
        return datasets[by_canonical[canonical(name)]]
    # A source without splits is one pool: "train[:80%]" cuts it as well as "all[:80%]" does.
    if name == "all" or (name == "train" and set(datasets) == {"all"}):
        return concatenate(list(datasets.values()))
    raise UserError(f"{source} has no split {name!r}; it has {', '.join(datasets)}")


def _slice_positions(term: Slice, count: int, spec: str) -> np.ndarray:
    def position(bound: float | None, default: int) -> int:
        if bound is None:
            return default
        absolute = round(bound * count / 100) if term.percent else int(bound)
        if abs(absolute) > count:
            raise UserError(f"split {spec!r} reaches past the {count} examples of {term.name!r}")
        return absolute + count if absolute < 0 else absolute

    return np.arange(position(term.start, 0), position(term.stop, count))


def _slice_hash(term: Slice, dataset: Dataset, spec: str) -> np.ndarray:
    where = places(dataset)
    if term.percent:

        def fraction(bound: float | None, default: float) -> float:
            if bound is None:
                return default
            return (bound + 100 if bound < 0 else bound) / 100

        return np.flatnonzero((where >= fraction(term.start, 0.0)) & (where < fraction(term.stop, 1.0)))
    # Of several labels an image there is no order that holds the shares of all.
    order = np.argsort(where, kind="stable") if dataset.several else stratified_order(dataset.labels, where)
    chosen = order[_slice_positions(term, len(dataset), spec)]
    return np.sort(chosen)


def places(dataset: Dataset) -> np.ndarray:
    """Returns the fixed place of each example in [0, 1), float64 [n]: that of its group, or without groups its name's.

    See `positions`.
    """
    return positions(dataset.names if dataset.groups is None else dataset.groups)


def without(dataset: Dataset, others: Dataset, what: str) -> Dataset:
    """Returns the examples of a data set that are none of the others; `what` is what an error calls them.

    Raises:
      UserError: none are left.
    """
    taken = set(others.names)
    rest = dataset.take(np.array([i for i, name in enumerate(dataset.names) if name not in taken], dtype=np.int64))
    if not len(rest):
        raise UserError(f"split {what} leaves nothing to train on; set val", arguments=["val"])
    return rest


def refuse_overlap(datasets: Mapping[str, Dataset | None]) -> None:
    """Raises a UserError that names all pairs of data sets that share examples; None is a split that there is not."""
    names = {title: set(dataset.names) for title, dataset in datasets.items() if dataset is not None}
    problems = []
    for i, first in enumerate(names):
        for second in list(names)[i + 1 :]:
            shared = sorted(names[first] & names[second])
            if shared:
                problems.append(
                    f"{first} and {second} share {len(shared)} examples (first: {', '.join(shared[:3])}); "
                    "metrics on seen examples mean nothing, so choose splits that do not overlap"
                )
    if problems:
        raise UserError("\n".join(problems), arguments=["train", "val", "test"])


def positions(names: Sequence[str]) -> np.ndarray:
    """Maps each name to its fixed place in [0, 1), float64 [n]; "train[:90%]" is every example below 0.9.

    The place is the SHA-256 of the name without its last number, plus that number times the golden ratio, modulo 1
    (Fibonacci hashing: Knuth, The Art of Computer Programming, vol. 3, section 6.4). It depends on the name alone, so
    an example keeps its side whatever else is added or removed. Consecutive numbers spread evenly: of the files
    flower_001, flower_002, ... of a class nearly the same share falls on each side, where independent draws would
    leave some classes with twice their share. Names without numbers, or with unrelated ones, fall as if drawn.
    """
    bits = np.fromiter((_hash(name) >> 11 for name in names), np.float64, len(names))
    return bits / 2.0**53


def _hash(name: str) -> int:
    stem, extension = os.path.splitext(name)
    number = _LAST_NUMBER.search(stem)
    if number:
        stem = f"{stem[: number.start()]}#{stem[number.end() :]}"
    digest = hashlib.sha256((stem + extension).encode("utf-8", "surrogateescape")).digest()
    steps = int(number.group()) if number else 0
    return (int.from_bytes(digest[:8], "big") + steps * _GOLDEN) % 2**64


def stratified_order(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Orders examples so that every beginning holds the classes in their proportions, int64 [n].

    Args:
      labels: int [n].
      where: places in [0, 1), float64 [n], which order the examples of a class.
    """
    by_class = np.lexsort((where, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    return np.lexsort((where, (rank + 0.5) / counts[labels]))
