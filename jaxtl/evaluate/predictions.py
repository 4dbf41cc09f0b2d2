"""Predictions that are kept: names, labels and logits of a split, as arrays of a file."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxtl.errors import UserError

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


def read_predictions(path: Path) -> tuple[tuple[str, ...], dict[str, Predictions]]:
    """Reads predictions.npz: the names of the classes, and what is kept of each split, by its name.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = [key.removesuffix("_logits") for key in arrays if key.endswith("_logits")]
            found = {split: Predictions(*(arrays[f"{split}_{key}"] for key in _KEYS)) for split in splits}
            classes = tuple(map(str, arrays["classes"]))
    except FileNotFoundError:
        raise UserError(f"there is no {path}: a run writes it at its end.") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    for split, kept in found.items():
        shape = (len(kept.labels), len(classes))
        if kept.logits.shape != shape or not ((kept.labels >= 0) & (kept.labels < len(classes))).all():
            raise UserError(f"{path} is damaged: the logits, labels and classes of {split} do not fit each other.")
    return classes, found
