"""Calibration: whether a classifier that is 80 % sure is right in 80 % of the cases."""

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class ReliabilityBins:
    """What a reliability diagram shows, in B bins of equal width.

    Attributes:
      edges: of the bins, from 0 to 1 [B + 1].
      counts: the images of each bin [B].
      confidence: their mean confidence [B]; NaN in a bin without images.
      accuracy: the share of them that is right [B]; likewise.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Gives plain values, None in bins without images."""

        def shares(values: np.ndarray) -> list[float | None]:
            return [None if np.isnan(value) else float(value) for value in values]

        return {
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "confidence": shares(self.confidence),
            "accuracy": shares(self.accuracy),
        }


def reliability_bins(confidences: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> ReliabilityBins:
    """Returns how often a classifier is right, by how sure it is; the ECE is the mean gap of these bins.

    The arguments are those of `expected_calibration_error`.

    >>> found = reliability_bins(np.array([0.75, 0.75, 0.25]), np.array([True, False, True]), bins=2)
    >>> found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist()
    ([1, 2], [0.25, 0.75], [1.0, 0.5])
    """
    place = bin_of(confidences, bins)
    counts = np.bincount(place, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(place, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return ReliabilityBins(np.linspace(0, 1, bins + 1), counts, mean(confidences), mean(correct.astype(np.float64)))


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the mean squared distance of probabilities [N, C] from the true classes [N]: 0 to 2.

    >>> brier_score(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    1.0
    """
    of_true = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(1) - 2 * of_true + 1).mean())


def bin_of(confidences: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the bin of equal width that each confidence lies in, from 0."""
    return np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
