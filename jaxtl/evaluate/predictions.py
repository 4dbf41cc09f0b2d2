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
    """Returns what is kept of a split: SPLIT_names [N], SPLIT_labels int32 [N] and SPLIT_logits float16 [N, C]."""
    arrays = {"names": np.asarray(names, np.str_), "labels": labels.astype(np.int32), "logits": as_half(logits)}
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


@dataclass(frozen=True)
class Predictions:
    """What is kept of a split of N images and C classes.

    Attributes:
      names: of the images, as the source gives them [N].
      labels: their classes [N].
      logits: float16 [N, C].
    """

    names: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


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
        if each.logits.shape != shape or not ((each.labels >= 0) & (each.labels < len(classes))).all():
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
