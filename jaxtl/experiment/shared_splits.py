"""The images that several runs have held out alike: those that none of them trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.members import Member, check_unchanged
from jaxtl.experiment.splits import open_splits, usable


@dataclass(frozen=True)
class SharedSplits:
    """What all runs have held out.

    Attributes:
      val: images that all validate on, with labels in the order of the first run's classes.
      test: images that all test on, likewise; None where some run has no test.
      notes: what is to be said of images that not all have.
    """

    val: data.Dataset
    test: data.Dataset | None
    notes: Sequence[str]


def open_shared(members: Sequence[Member]) -> SharedSplits:
    """Opens the splits of runs, and keeps of the first's those images that all have, by their names.

    Raises:
      UserError: data cannot be opened, no image of a split is in all, or an image has other labels.
    """
    opened = [_open(member) for member in members]
    notes: list[str] = []
    val = _common("val", members, [splits.val for splits in opened], notes)
    tests = [splits.test for splits in opened]
    if any(test is None for test in tests):
        lacking = ", ".join(member.name for member, test in zip(members, tests, strict=True) if test is None)
        notes.append(f"there are no metrics on test, since there is no test split in {lacking}")
        return SharedSplits(val, None, notes)
    test = _common("test", members, [each for each in tests if each is not None], notes)
    return SharedSplits(val, test, notes)


def _open(member: Member) -> data.Splits:
    config = member.config
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    splits = open_splits(config, source, by_class=not files.began_earlier(member.workdir))
    check_unchanged(member, splits)
    return splits


def _common(split: str, members: Sequence[Member], sets: Sequence[data.Dataset], notes: list[str]) -> data.Dataset:
    names = set(map(str, sets[0].names)).intersection(*(map(str, each.names) for each in sets[1:]))
    counts = ", ".join(f"{member.name} {len(each):,}" for member, each in zip(members, sets, strict=True))
    if not names:
        raise UserError(
            f"the runs have no image of {split} in common ({counts}), so there is none to judge all by: give runs with "
            "the same data and splits."
        )
    index = np.array([i for i, name in enumerate(sets[0].names) if str(name) in names])
    if any(len(each) > len(index) for each in sets):
        notes.append(f"{split}: the {len(index):,} images alone that all runs have ({counts})")
    for member, each in zip(members[1:], sets[1:], strict=True):
        _check_labels(split, (members[0].name, sets[0]), (member.name, each), names)
    return _ordered(sets[0].take(index), members[0].classes)


def _check_labels(
    split: str, first: tuple[str, data.Dataset], other: tuple[str, data.Dataset], names: set[str]
) -> None:
    labels = [
        {str(name): each.classes[label] for name, label in zip(each.names, each.labels, strict=True)}
        for each in (first[1], other[1])
    ]
    differ = sorted(name for name in names if labels[0][name] != labels[1][name])
    if differ:
        raise UserError(
            f"{first[0]} and {other[0]} have other labels for {len(differ):,} images of {split}, such as {differ[0]}: "
            f"{labels[0][differ[0]]!r} and {labels[1][differ[0]]!r}. Give runs of the same data."
        )


def _ordered(dataset: data.Dataset, classes: Sequence[str]) -> data.Dataset:
    """Returns the data with labels in the order of those classes."""
    strange = sorted(set(dataset.classes) - set(classes))
    if strange:
        raise UserError(f"the data have classes that the runs do not know, such as {strange[0]!r}: they have changed.")
    place = np.array([list(classes).index(name) for name in dataset.classes], np.int32)
    return replace(dataset, classes=tuple(classes), labels=place[dataset.labels])
