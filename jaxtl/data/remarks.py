"""What a person should hear of the data before a run: classes that a split lacks, images that two splits share."""

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl.data.dataset import Dataset, Encoded
from jaxtl.errors import UserError

# Names that a remark shows before it only counts the rest.
_SHOWN = 5
# Labels are quantities if they are numbers and more than this share of them differ ...
_DISTINCT = 0.8
# ... in so many images, where all are whole numbers: of a few images these may well be class indices.
_IMAGES_OF_QUANTITIES = 10


def count_classes(dataset: Dataset) -> str:
    """Says how many images of each class there are, or of many classes how many of the rarest and the commonest."""
    counts = _counts(dataset)
    if len(counts) <= _SHOWN:
        return ", ".join(f"{count} {name}" for name, count in zip(dataset.classes, counts, strict=True))
    low, high = counts.min(), counts.max()
    return f"{low} of each of {len(counts)} classes" if low == high else f"{low} to {high} of each class"


def several_in_words(dataset: Dataset) -> str:
    """Says how many labels the images of train have, at least one image of several labels."""
    counts = dataset.labels.sum(1, dtype=int)
    none = int((counts == 0).sum())
    without = f"; {none:,} of {len(dataset):,} have none" if none else ""
    return (
        f"an image has up to {counts.max()} of {len(dataset.classes)} labels in train, {counts.mean():.2g} on average"
        f"{without}"
    )


def absent_classes(splits: Mapping[str, Dataset | None]) -> list[str]:
    """Returns a line for each split that lacks classes, and one for each class that train alone lacks.

    Args:
      splits: "train" and others by name; None is a split that there is not.
    """
    counts = {title: _counts(dataset) for title, dataset in splits.items() if dataset is not None}
    classes = next(dataset.classes for dataset in splits.values() if dataset is not None)
    lines = [line for title in counts for line in _strangers(title, counts, classes)]
    anywhere = sum(counts.values()) > 0
    for title, count in counts.items():
        # What only train lacks has a warning of its own.
        absent = np.flatnonzero((count == 0) & ~anywhere if title == "train" else count == 0)
        if len(absent):
            names = few([classes[i] for i in absent])
            lines.append(f"{title} has no image of {len(absent)} of {len(classes)} classes: {names}")
    return lines


def _strangers(title: str, counts: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> list[str]:
    """Returns a warning for each class of a split that train lacks; it may be misspelt in one of them."""
    lines = []
    lacked = [name for name, count in zip(classes, counts[title], strict=True) if not count]
    strangers = np.flatnonzero((counts[title] > 0) & (counts["train"] == 0))
    for i in strangers[:_SHOWN]:
        near = difflib.get_close_matches(classes[i].lower(), [name.lower() for name in lacked], n=1)
        meant = next((name for name in lacked if [name.lower()] == near), None)
        advice = (
            f"is it {meant!r}, of which {title} has none? Then give both one name"
            if meant is not None
            else "add some to train, or take it away"
        )
        lines.append(
            f"warning: class {classes[i]!r} is in {title} ({counts[title][i]} images) and not in train, so it is never "
            f"predicted: {advice}"
        )
    if len(strangers) > _SHOWN:
        names = few([classes[i] for i in strangers[_SHOWN:]])
        lines.append(f"warning: {len(strangers) - _SHOWN} more classes of {title} are not in train: {names}")
    return lines


def shared_images(splits: Mapping[str, Dataset | None]) -> list[str]:
    """Returns a warning for each split with images that are, byte for byte, in train too.

    Only images of equal size are read and compared.

    Args:
      splits: "train" and others by name; None is a split that there is not.
    """
    train = splits["train"]
    assert train is not None
    others = {title: dataset for title, dataset in splits.items() if title != "train" and dataset is not None}
    sizes = {title: _sizes(dataset) for title, dataset in {"train": train, **others}.items()}
    common = set(sizes["train"]) & {size for title in others for size in sizes[title]} - {-1}
    known: dict[str, int] = {}
    for i in _of_size(sizes["train"], common):
        known.setdefault(_digest(train, i), i)
    lines = []
    for title, dataset in others.items():
        digests = {i: _digest(dataset, i) for i in _of_size(sizes[title], common)}
        pairs = [(i, known[digest]) for i, digest in digests.items() if digest and digest in known]
        if pairs:
            unlike = sum(not np.array_equal(dataset.labels[i], train.labels[j]) for i, j in pairs)
            named = few([f"{dataset.names[i]} is {train.names[j]}" for i, j in pairs], separator="; ")
            lines.append(
                f"warning: {len(pairs)} of {len(dataset)} images of {title} are in train too, byte for byte"
                f"{f', {unlike} of them with another label' if unlike else ''}: {named}. What was seen in training is "
                f"no measure: take them out of one of the two"
            )
    return lines


def quantities(labels: Sequence[str]) -> str:
    """Returns what is wrong with labels that are quantities, a value of its own for nearly each image; or ""."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return ""
    if not all(map(math.isfinite, values)):
        return ""
    whole, distinct = all(map(float.is_integer, values)), len(set(values))
    if len(values) < (_IMAGES_OF_QUANTITIES if whole else 2) or distinct <= _DISTINCT * len(values):
        return ""
    return (
        f"the labels are numbers, with {distinct} values for {len(values)} images: quantities, as in a regression, but "
        "here each image has one of a few classes; write class names, such as ranges (0-10, 10-20, ...)"
    )


def few(names: list[str], shown: int = _SHOWN, separator: str = ", ") -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def _counts(dataset: Dataset) -> np.ndarray:
    return dataset.class_counts()


def _sizes(dataset: Dataset) -> list[int]:
    """Returns the size in bytes of each image; -1 for a file that is not there, which is told where images are read."""
    if dataset.root is None:
        return [_length(dataset.read(i)) for i in range(len(dataset))]
    sizes = []
    for name in dataset.names:
        try:
            sizes.append((dataset.root / name).stat().st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def _length(encoded: Encoded) -> int:
    return encoded.nbytes if isinstance(encoded, np.ndarray) else len(encoded)


def _of_size(sizes: list[int], wanted: set[int]) -> list[int]:
    return [i for i, size in enumerate(sizes) if size in wanted]


def _digest(dataset: Dataset, index: int) -> str:
    """Returns the digest of the bytes; "" of a file that cannot be read."""
    try:
        encoded = dataset.read(index)
    except UserError:
        return ""
    form = str(encoded.shape) if isinstance(encoded, np.ndarray) else ""
    content = encoded.tobytes() if isinstance(encoded, np.ndarray) else encoded
    return form + hashlib.blake2b(content, digest_size=16).hexdigest()
