"""Calibration: whether a classifier that is 80 % sure is right in 80 % of the cases."""

import numpy as np

BINS = 15


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """Returns the gap between confidence and accuracy in bins of equal width, weighted by their images (ECE).

    Args:
      confidences: the probability of the predicted class of each image [N].
      correct: whether it is the true class [N].
      bins: number of bins over (0, 1]; each holds its upper edge, as in Guo et al. (2017).

    >>> expected_calibration_error(np.array([0.75, 0.75, 0.75, 0.25]), np.array([True, True, True, True]), bins=2)
    0.375
    """
    gaps = np.bincount(bin_of(confidences, bins), weights=correct - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def adaptive_calibration_error(confidences: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """Returns the same over bins of equally many images, from the least to the most confident.

    The arguments are those of `expected_calibration_error`. Where the number of images is no multiple of the bins, the
    first ones have one image more.

    >>> adaptive_calibration_error(np.array([0.5, 0.75, 0.875, 1.0]), np.array([False, True, True, True]), bins=2)
    0.09375
    """
    # Of equal confidences the wrong ones come first, so that the order of the images changes nothing.
    order = np.lexsort((correct, confidences))
    parts = np.array_split((correct - confidences)[order], bins)
    return float(sum(abs(part.sum()) for part in parts) / len(confidences))


def bin_of(confidences: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the bin of equal width that each confidence lies in, from 0."""
    return np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
