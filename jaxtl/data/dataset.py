"""The one form in which every source hands over its examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Encoded = bytes | np.ndarray  # The bytes of an image file, or decoded pixels: uint8 [H, W], [H, W, 1 | 3 | 4].


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images that are read one by one, when they are needed.

    Attributes:
      classes: class names; a label is an index into them.
      labels: class indices, int32 [n]; or where an image has several labels or none, which of them, uint8 [n, C] of 0
        and 1.
      names: n stable names: an example keeps its name when others come or go.
      read: maps an index in [0, n) to an encoded image file or to decoded pixels; safe to call from several threads.
      root: the folder that the names are paths below; None where examples are no files.
      groups: the group of each example, such as the patient an image is of; None without groups. What jaxtl cuts keeps
        a group on one side.
      weights: how much each example counts in the loss of training, positive, float32 [n]; None for all alike.
      sampling: how often training shows each class: "", "balanced" or "sqrt", see `sampling.quotas`.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    read: Callable[[int], Encoded]
    root: Path | None = None
    groups: Sequence[str] | None = None
    weights: np.ndarray | None = None
    sampling: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def several(self) -> bool:
        """Whether an image has several labels, or none, instead of one."""
        return self.labels.ndim == 2

    def class_counts(self) -> np.ndarray:
        """Returns the number of images of each class [C]; one with several labels counts for each of them."""
        if self.several:
            of_all: np.ndarray = self.labels.sum(0, dtype=np.int64)
            return of_all
        return np.bincount(self.labels, minlength=len(self.classes))

    def where(self, index: int) -> str:
        """Returns what messages call an example: its whole path, where it is a file."""
        return self.names[index] if self.root is None else str(self.root / self.names[index])

    def take(self, indices: np.ndarray) -> "Dataset":
        """Returns the examples at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(
            classes=self.classes,
            labels=self.labels[chosen],
            names=tuple(self.names[i] for i in chosen),
            read=lambda i: self.read(int(chosen[i])),
            root=self.root,
            groups=None if self.groups is None else tuple(self.groups[i] for i in chosen),
            weights=None if self.weights is None else self.weights[chosen],
            sampling=self.sampling,
        )


def batch_labels(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns the labels of a batch: int32 [B], or of several an image float32 [B, C].

    Args:
      labels: as a `Dataset` has them.
      index: of the batch's rows; -1 is padding, whose labels are 0.

    >>> batch_labels(np.uint8([[1, 1], [0, 1]]), np.array([1, -1])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    real = (index >= 0).reshape(-1, *(1,) * (labels.ndim - 1))
    return np.where(real, labels[index], 0).astype(np.int32 if labels.ndim == 1 else np.float32)


def batch_mask(index: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns how much each row of a batch counts, float32 [B]: the weight of its example or 1, and padding 0.

    >>> batch_mask(np.array([1, -1]), np.float32([1, 3])).tolist()
    [3.0, 0.0]
    """
    return np.where(index >= 0, 1 if weights is None else weights[index], 0).astype(np.float32)


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Returns the examples of several data sets of one source, one set after the other."""
    if len(datasets) == 1:
        return datasets[0]
    starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
    groups = [group for dataset in datasets for group in dataset.groups or ()]

    def read(i: int) -> Encoded:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return datasets[part].read(i - int(starts[part]))

    return Dataset(
        classes=datasets[0].classes,
        labels=np.concatenate([dataset.labels for dataset in datasets]),
        names=tuple(name for dataset in datasets for name in dataset.names),
        read=read,
        root=datasets[0].root,
        groups=None if datasets[0].groups is None else tuple(groups),
        weights=_concatenated_weights(datasets),
    )


def _concatenated_weights(datasets: Sequence[Dataset]) -> np.ndarray | None:
    parts = [dataset.weights for dataset in datasets if dataset.weights is not None]
    return np.concatenate(parts) if len(parts) == len(datasets) else None
