"""What an audit found, as rows of one table: an image, what is wrong with it, and what may be done."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxtl.audit.duplicates import Pair, group_pairs
from jaxtl.data.corrections import COLUMNS, EXCLUDE
from jaxtl.data.dataset import Dataset

UNUSED = "unused"
"""What stands for the split of an image that a run would not use."""
PROBLEMS = {
    "unreadable": "Files that cannot be decoded.",
    "leak": "The same image, or nearly, in two splits: what was seen in training is no measure.",
    "conflicting labels": "The same image, or nearly, with different labels: one of them is wrong, or both.",
    "duplicate": "The same image again within a split.",
    "near duplicate": "Nearly the same image again: smaller, compressed, brighter, a little cropped, or mirrored.",
    "similar": "Images with next to the same features: look whether they are one photograph, cut or turned.",
    "wrong label": "A linear probe on features, fitted without the image, says another class.",
    "blank": "Images of next to one colour.",
    "dark": "Images without any light place.",
    "blurred": "Images without fine detail.",
    "odd size": "Images far from the usual size or shape of the set.",
}
"""Each problem that a row may have, in the order of the table, and what it is."""


@dataclass(frozen=True)
class Finding:
    """A row of the table: a problem of one image.

    Attributes:
      index: of the image.
      problem: one of PROBLEMS.
      detail: what was measured, in words.
      suggestion: an action, if one suggests itself.
      other: the image that it is like, or -1.
    """

    index: int
    problem: str
    detail: str
    suggestion: str = ""
    other: int = -1


@dataclass(frozen=True)
class Audited:
    """The images that are audited, of all splits.

    Attributes:
      images: in one set, one split after the other.
      sides: what a run would use each for: "train", "val", "test" or "unused", or the split of the source [N].
      labels: of each in words [N].
    """

    images: Dataset
    sides: np.ndarray
    labels: Sequence[str]


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
      source: where the images come from.
      model: whose features were taken; "" without weights.
      audited: the images.
      findings: in the order of the table.
      few: classes with few images to train on, and their numbers.
      changes: what tables given to it changed, as `Corrections.changes` gives it.
      notes: what else there is to say, one line each.
    """

    source: str
    model: str
    audited: Audited
    findings: list[Finding]
    few: dict[str, int]
    changes: list[dict[str, str]]
    notes: list[str]

    def counts(self) -> dict[str, int]:
        """Returns the number of rows of each problem that occurs."""
        found = Counter(finding.problem for finding in self.findings)
        return {problem: found[problem] for problem in PROBLEMS if found[problem]}


def of_pairs(pairs: Sequence[Pair], audited: Audited) -> list[Finding]:
    """Returns the findings of images that are alike, a row for each image that a group could do without.

    Of a group, the image that is kept is one of test, or else of val, so that what measures stays as it is; each other
    has a row with the image of the group that it is most like. Where labels differ, each image has a row, and nothing
    is suggested. Images whose features alone are alike make no group: each such pair is a row.
    """
    strong = [pair for pair in pairs if pair.kind != "features"]
    by_image: dict[int, list[Pair]] = {}
    for pair in strong:
        by_image.setdefault(pair.first, []).append(pair)
        by_image.setdefault(pair.second, []).append(pair)
    found, of_group = [], {}
    for number, group in enumerate(group_pairs(strong, len(audited.images))):
        members = group.tolist()
        of_group.update(dict.fromkeys(members, number))
        kept = min(members, key=lambda i: (_rank(str(audited.sides[i])), i))
        found += [finding for i in members if (finding := _of_member(i, kept, by_image[i], audited)) is not None]
    for pair in pairs:
        i, j = pair.first, pair.second
        if pair.kind == "features" and of_group.get(i, -1) != of_group.get(j, -2):
            if _rank(audited.sides[i]) < _rank(audited.sides[j]):
                i, j = j, i
            found.append(Finding(i, "similar", f"{pair.detail} to {_named(j, audited)}", other=j))
    return found


def _of_member(i: int, kept: int, pairs: Sequence[Pair], audited: Audited) -> Finding | None:
    """Returns the finding of one image of a group, if it has one; `pairs` are those of the image."""
    # The strongest sign first, and of equal ones that of the image that is kept.
    order = ("file", "pixels", "near")
    own = sorted(pairs, key=lambda pair: (order.index(pair.kind), _other(pair, i) != kept))
    across = [pair for pair in own if _leaks(audited.sides[i], audited.sides[_other(pair, i)])]
    differing = [pair for pair in own if audited.labels[_other(pair, i)] != audited.labels[i]]
    pair = (differing or across or own)[0]
    other = _other(pair, i)
    detail = f"{pair.detail} {'from' if pair.kind == 'near' else 'as'} {_named(other, audited)}"
    if differing:
        return Finding(i, "conflicting labels", detail, other=other)
    if i == kept:
        return None
    problem = "leak" if across else "near duplicate" if pair.kind == "near" else "duplicate"
    return Finding(i, problem, detail, EXCLUDE, other)


def _named(i: int, audited: Audited) -> str:
    return f"{audited.images.names[i]} ({audited.sides[i]}, {audited.labels[i]})"


def _leaks(one: str, other: str) -> bool:
    return one != other and UNUSED not in (one, other)


def _other(pair: Pair, i: int) -> int:
    return pair.second if pair.first == i else pair.first


def _rank(side: str) -> int:
    order = ("test", "val", "validation", "train")
    return order.index(side) if side in order else len(order)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Returns findings by problem, in the order of PROBLEMS; within one as they were."""
    order = list(PROBLEMS)
    return sorted(findings, key=lambda finding: order.index(finding.problem))


def to_csv(findings: Sequence[Finding], audited: Audited, before: Sequence[Mapping[str, str]] = ()) -> str:
    """Returns the table that a person edits; its column `action` is empty but in the rows of `before`.

    Args:
      findings: in order.
      audited: the images.
      before: what tables given to this audit changed, as `Corrections.changes` gives it: their rows come first.
    """
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for change in before:
        table.writerow({**change, "problem": "corrected"})
    # Rows name the label of the source, by which the table is known to be of it, whatever it was corrected to.
    of_source = {change["image"]: change["label"] for change in before}
    for finding in findings:
        i = finding.index
        table.writerow(
            {
                "image": audited.images.names[i],
                "split": audited.sides[i],
                "label": of_source.get(audited.images.names[i], audited.labels[i]),
                "problem": finding.problem,
                "detail": finding.detail,
                "suggestion": finding.suggestion,
            }
        )
    return file.getvalue()
