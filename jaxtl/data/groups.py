"""Groups of images, such as those of one patient: they are cut whole, so that no side knows a group of another."""

from collections.abc import Mapping

import numpy as np

from jaxtl.data import cuts
from jaxtl.data.dataset import Dataset
from jaxtl.data.remarks import few
from jaxtl.data.splits import places, positions
from jaxtl.errors import UserError


def sides(dataset: Dataset, *, val_from: float, test_from: float | None = None) -> np.ndarray:
    """Returns the side of each example: `cuts.TRAIN`, `VAL` or `TEST`, int8 [n], as far as can be with all classes.

    Groups are cut whole: a group has the classes of its examples, and `cuts.cut_several` cuts groups.

    Args:
      dataset: what is cut.
      val_from: the place where val begins.
      test_from: the place where test begins; None for no test.
    """
    if dataset.groups is None:
        cut = cuts.cut_several if dataset.several else cuts.cut
        return cut(dataset.labels, places(dataset), val_from=val_from, test_from=test_from)
    names, owner = np.unique(np.asarray(dataset.groups, np.str_), return_inverse=True)
    there = class_counts(dataset, owner, len(names)) > 0
    of_groups = cuts.cut_several(
        there.astype(np.uint8), positions(names.tolist()), val_from=val_from, test_from=test_from
    )
    return of_groups[owner]


def class_counts(dataset: Dataset, owner: np.ndarray, groups: int) -> np.ndarray:
    """Returns how many examples of each class each group has, int64 [groups, C]; `owner` [n] is each one's group."""
    counts = np.zeros((groups, len(dataset.classes)), np.int64)
    if dataset.several:
        np.add.at(counts, owner, dataset.labels)
    else:
        np.add.at(counts, (owner, dataset.labels), 1)
    return counts


def refuse_divided(datasets: Mapping[str, Dataset | None]) -> None:
    """Sees that no group has examples in two of the splits, which are named for the message; None is none.

    Raises:
      UserError: one has; says in which, and how many there are.
    """
    of = {title: set(dataset.groups or ()) for title, dataset in datasets.items() if dataset is not None}
    shared = [
        (len(both), f"{first} and {second} share {few(sorted(both))}")
        for i, first in enumerate(of)
        for second in list(of)[i + 1 :]
        if (both := of[first] & of[second])
    ]
    if shared:
        count = sum(number for number, _ in shared)
        groups = "a group of images is" if count == 1 else f"{count} groups of images are"
        raise UserError(
            f"{groups} on both sides of a split: {'; '.join(text for _, text in shared)}. Put each group on one side, "
            "or give no split, and groups are kept whole",
            arguments=["train", "val", "test"],
        )
