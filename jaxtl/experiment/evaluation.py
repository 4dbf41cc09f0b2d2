"""What the eval command measures: which split, and its labels in the order of the head."""

import dataclasses

import numpy as np

from jaxtl import data
from jaxtl.data.splits import canonical
from jaxtl.errors import UserError
from jaxtl.pretrained.load import class_conflict


def choose_split(asked: str, source: data.Source) -> tuple[str, data.Dataset]:
    """Chooses what to measure: what was asked, the test split, or a source without splits as a whole."""
    names = source.split_names
    split = asked
    if not split:
        known = {canonical(name): name for name in names}
        split = known.get("test") or known.get("validation", "")
    if not split and len(names) == 1:
        split = names[0]
    if not split:
        raise UserError(f"{source.uri} has the splits {', '.join(names)}: say which with --config.eval.split.")
    return split, source.split(split)


def title(origin: str) -> str:
    """Returns what a line calls the split that is measured, from what it is in words.

    >>> title("train"), title("the test split of the run")
    ('train', 'test')
    """
    return origin if " " not in origin else "val" if "validation" in origin else "test"


def align_classes(
    width: int,
    source_classes: tuple[str, ...] | None,
    source: data.Source,
    dataset: data.Dataset,
    *,
    exact: bool = False,
) -> tuple[tuple[str, ...], data.Dataset]:
    """Returns the classes of the head, and the data with labels in their order.

    Args:
      width: of the head.
      source_classes: the names of its classes; None if unknown.
      source: of the data.
      dataset: the split of it that is measured.
      exact: whether each name of the data must be one of the weights, letter by letter.

    Raises:
      UserError: the weights have no head, or one for other classes.
    """
    if not width:
        raise UserError("these weights have no head, so they predict no classes: train first.")
    classes = source.classes
    if source_classes and set(classes) <= set(source_classes):
        place = np.asarray([source_classes.index(name) for name in classes], np.int32)
        labels = _moved(dataset.labels, place, width) if dataset.several else place[dataset.labels]
        return source_classes, dataclasses.replace(dataset, classes=source_classes, labels=labels)
    # Plain indices say which output is meant, even where the highest of them do not occur.
    if len(classes) <= width and all(name == str(index) for index, name in enumerate(classes)):
        classes = source_classes or tuple(str(index) for index in range(width))
        return classes, _widened(dataset, classes)
    # So do numbers with names beside them.
    if len(classes) < width and source_classes is None and source.uri.startswith(("csv:", "jsonl:", "npz:")):
        classes = classes + tuple(f"class {index}" for index in range(len(classes), width))
        return classes, _widened(dataset, classes)
    strange = [name for name in classes if name not in (source_classes or classes)]
    differ = (exact and strange) or (source_classes and class_conflict(source_classes, classes))
    if len(classes) != width or differ:
        more = ", ..." if len(source_classes or ()) > 3 else ""
        known = f" ({', '.join(source_classes[:3])}{more})" if source_classes else ""
        unknown = f", of which the weights do not know {', '.join(map(repr, strange[:5]))}" if strange else ""
        raise UserError(
            f"{source.uri} has {len(classes)} classes{unknown}; the weights have a head for "
            f"{width}{known}. Give data of the same classes, or train first."
        )
    return classes, dataset


def _widened(dataset: data.Dataset, classes: tuple[str, ...]) -> data.Dataset:
    """Returns the data with further classes after their own."""
    labels = dataset.labels
    if dataset.several:
        labels = _moved(labels, np.arange(labels.shape[1]), len(classes))
    return dataclasses.replace(dataset, classes=classes, labels=labels)


def _moved(labels: np.ndarray, place: np.ndarray, width: int) -> np.ndarray:
    """Returns labels [n, C] of 0 and 1 as [n, width], column c at `place[c]`."""
    moved = np.zeros((len(labels), width), labels.dtype)
    moved[:, place] = labels
    return moved
