"""Saying "none of these": what is left, and how good it is, where images of a low score are put aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCORES = ("confidence", "energy")


@dataclass(frozen=True)
class CoverageCurve:
    """How accurate a classifier is on the images that it keeps, from the highest score down.

    Attributes:
      thresholds: the different scores, falling [K]; images at or above one are kept.
      coverage: the share of images that are kept [K]; the last is 1.
      accuracy: the share of them that are right [K].
      aurc: the area under the curve of risk (1 - accuracy) over coverage: the mean risk of keeping 1 to N images.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray
    aurc: float

    def accuracy_at(self, coverage: float) -> float:
        """Returns the accuracy where at least such a share is kept, and no more than need be."""
        return float(self.accuracy[self._first(coverage)])

    def threshold_for_coverage(self, wanted: float) -> float:
        """Returns the highest threshold that keeps at least such a share."""
        return float(self.thresholds[self._first(wanted)])

    def threshold_for_accuracy(self, wanted: float) -> float | None:
        """Returns the lowest threshold above which the accuracy is at least as wanted; None if there is none."""
        good = np.flatnonzero(self.accuracy >= wanted - 1e-12)
        return float(self.thresholds[good[-1]]) if len(good) else None

    def _first(self, coverage: float) -> int:
        return int(np.argmax(self.coverage >= min(coverage, 1.0) - 1e-12))


def coverage_curve(scores: np.ndarray, correct: np.ndarray) -> CoverageCurve:
    """Returns the curve of N images, N at least 1.

    Images of the same score are kept or put aside together; for the area they count as in any order, by the mean.

    Args:
      scores: the higher, the surer [N].
      correct: whether the prediction is right [N].

    >>> curve = coverage_curve(np.array([0.9, 0.8, 0.8, 0.5]), np.array([True, True, False, False]))
    >>> curve.coverage.tolist(), curve.accuracy.round(3).tolist()
    ([0.25, 0.75, 1.0], [1.0, 0.667, 0.5])
    """
    order = np.argsort(-scores, kind="stable")
    falling, count = scores[order], len(scores)
    kept = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) + 1
    right = correct[order].cumsum()[kept - 1]
    numbers = np.arange(1, count + 1)
    wrong = np.interp(numbers, [0, *kept], [0, *(kept - right)])
    return CoverageCurve(falling[kept - 1], kept / count, right / kept, float((wrong / numbers).mean()))


def energy(logits: np.ndarray, *, sigmoid: bool = False) -> np.ndarray:
    """Returns the negative energy of logits [..., C]: what a model has seen much of has more of it.

    It is the logarithm of the summed exponentials (Liu et al., 2020, https://arxiv.org/abs/2010.03759), of the logits
    as they were trained; for sigmoids the sum of log(1 + exp(z)) (Wang et al., 2021, https://arxiv.org/abs/2111.12797).
    """
    logits = np.asarray(logits, np.float64)
    found: np.ndarray = np.logaddexp(0, logits).sum(-1) if sigmoid else np.logaddexp.reduce(logits, axis=-1)
    return found


def has_energy(logits: np.ndarray) -> bool:
    """Tells whether logits [N, C] have an energy: (0, z), of one logit, would put aside whatever is of the first class.

    >>> has_energy(np.array([[0.0, 2.0], [0.0, -1.0]])), has_energy(np.array([[0.5, 2.0], [0.0, -1.0]]))
    (False, True)
    """
    return logits.shape[1] != 2 or bool(logits[:, 0].any())


def table(curve: CoverageCurve, coverages: Sequence[float] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)) -> dict[str, Any]:
    """Returns a few points of a curve and its area, as plain values.

    >>> curve = coverage_curve(np.array([0.9, 0.8, 0.7, 0.5]), np.array([True, True, True, False]))
    >>> table(curve, (1.0, 0.5))
    {'aurc': 0.0625, 'accuracy_at': {'1': 0.75, '0.5': 1.0}}
    """
    return {"aurc": curve.aurc, "accuracy_at": {f"{share:g}": curve.accuracy_at(share) for share in coverages}}
