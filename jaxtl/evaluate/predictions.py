"""Predictions that are kept: names, labels and logits of a split, as arrays of a file."""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxtl.errors import UserError
from jaxtl.evaluate.details import two_columns

_KEYS = ("names", "labels", "logits")
# The last number of float16 but one: there must be room below.
_LARGEST = 65472.0


def as_arrays(split: str, names: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what is kept of a split: SPLIT_names [N], SPLIT_labels and SPLIT_logits float16 [N, C].

    Labels are int32 [N], or of several labels an image uint8 [N, C] of 0 and 1.
    """
    several = labels.ndim == 2
    arrays = {
        "names": np.asarray(names, np.str_),
        "labels": labels.astype(np.uint8 if several else np.int32),
        "logits": as_half_signed(logits) if several else as_half(logits),
    }
    return {f"{split}_{key}": array for key, array in arrays.items()}


def as_half(logits: np.ndarray) -> np.ndarray:
    """Returns logits [N, C] in float16, with the highest where it was.

    Rounded alone, two logits may become equal, and the first of them would be predicted.

    >>> as_half(np.float32([[1.0, 1.0001]])).argmax(1)
    array([1])
    """
    first = logits.argmax(1)[:, None]
    half = np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)
    level = (half == np.take_along_axis(half, first, 1)) & (np.arange(logits.shape[1])[None] < first)
    return np.where(level, np.nextafter(half, np.float16(-np.inf)), half)


def as_half_signed(logits: np.ndarray) -> np.ndarray:
    """Returns logits [N, C] in float16, below 0 where they were: of several labels the sign decides on each.

    >>> as_half_signed(np.float32([[-1e-9, 1e-9]])) >= 0
    array([[False,  True]])
    """
    half = np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)
    return np.where((logits < 0) & (half >= 0), np.nextafter(np.float16(0), np.float16(-1)), half)


@dataclass(frozen=True)
class Predictions:
    """What is kept of a split of N images and C classes.

    Attributes:
      names: of the images, as the source gives them [N].
      labels: their classes [N]; of several labels an image 0 and 1 [N, C].
      logits: float16 [N, C].
    """

    names: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    def several(self) -> bool:
        """Whether an image has several labels, or none, instead of one."""
        return self.labels.ndim == 2


def splits_in(path: Path) -> list[str]:
    """Returns the splits of predictions.npz without reading what is kept of them; the errors are those of reading."""
    with _opened(path) as arrays:
        return [key.removesuffix("_logits") for key in arrays if key.endswith("_logits")]


def read_predictions(path: Path, splits: Sequence[str] | None = None) -> tuple[tuple[str, ...], dict[str, Predictions]]:
    """Reads predictions.npz: the names of the classes, and what is kept of each split, by its name.

    Args:
      path: of the file.
      splits: those to read; None for all.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    chosen = splits_in(path) if splits is None else splits
    with _opened(path) as arrays:
        kept = {split: [arrays[f"{split}_{key}"] for key in _KEYS] for split in chosen}
        classes = tuple(map(str, arrays["classes"]))
    found = {split: Predictions(names, labels, two_columns(logits)) for split, (names, labels, logits) in kept.items()}
    for split, each in found.items():
        shape = (len(each.labels), len(classes))
        highest = 1 if each.several else len(classes) - 1
        fits = each.logits.shape == shape and (not each.several or each.labels.shape == shape)
        if not fits or not ((each.labels >= 0) & (each.labels <= highest)).all():
            raise UserError(f"{path} is damaged: the logits, labels and classes of {split} do not fit each other.")
    return classes, found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Opens the file; what goes wrong with it, within too, is a UserError."""
    try:
        # numpy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except FileNotFoundError:
        raise UserError(f"there is no {path}: a run writes it at its end.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
