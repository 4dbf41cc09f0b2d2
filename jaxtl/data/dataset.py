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
      labels: int32 [n].
      names: n stable names: an example keeps its name when others come or go.
      read: maps an index in [0, n) to an encoded image file or to decoded pixels; safe to call from several threads.
      root: the folder that the names are paths below; None where examples are no files.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    read: Callable[[int], Encoded]
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

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
        )


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Returns the examples of several data sets of one source, one set after the other."""
    if len(datasets) == 1:
        return datasets[0]
    starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])

    def read(i: int) -> Encoded:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return datasets[part].read(i - int(starts[part]))

    return Dataset(
        classes=datasets[0].classes,
        labels=np.concatenate([dataset.labels for dataset in datasets]),
        names=tuple(name for dataset in datasets for name in dataset.names),
        read=read,
        root=datasets[0].root,
    )
