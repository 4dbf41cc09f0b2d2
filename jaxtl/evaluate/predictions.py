"""Predictions that are kept: names, labels and logits of a split, as arrays of a file."""

from collections.abc import Sequence

import numpy as np

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
