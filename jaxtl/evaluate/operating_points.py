"""Operating points: where to cut a probability for a wanted precision or recall, and which decision costs least."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Above:
    """What the images at or above a threshold are, one class against the rest.

    Attributes:
      above: their number.
      count: the number of images of the class.
      precision: the share of those above that are of the class; None where none is above.
      recall: the share of the class that is above; None where it has no images.
    """

    above: int
    count: int
    precision: float | None
    recall: float | None

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return {"precision": self.precision, "recall": self.recall, "above": self.above, "count": self.count}


def above_threshold(scores: np.ndarray, positive: np.ndarray, threshold: float) -> Above:
    """Returns what lies at or above a threshold.

    Args:
      scores: how likely the class is, of each image [N].
      positive: whether the image is of the class [N].
      threshold: of the scores.
    """
    above, count = scores >= threshold, int(positive.sum())
    number, hits = int(above.sum()), int((above & positive).sum())
    return Above(number, count, hits / number if number else None, hits / count if count else None)


def precision_threshold(scores: np.ndarray, positive: np.ndarray, wanted: float) -> float | None:
    """Returns the lowest threshold at or above which the precision is at least as wanted; None if there is none.

    It is one of the scores, so at least one image is above. The arguments are those of `above_threshold`.

    >>> precision_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]), 0.6)
    0.7
    """
    thresholds, above, hits = cumulated(scores, positive)
    return _lowest(thresholds, hits >= _share_of(wanted, above))


def recall_threshold(scores: np.ndarray, positive: np.ndarray, wanted: float) -> float | None:
    """Returns the highest threshold at or above which the recall is at least as wanted; None for no images.

    The arguments are those of `above_threshold`.

    >>> recall_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]), 0.6)
    0.7
    """
    if not positive.any():
        return None
    thresholds, _, hits = cumulated(scores, positive)
    return float(thresholds[np.argmax(hits >= _share_of(wanted, positive.sum()))])


@dataclass(frozen=True)
class Cost:
    """What decisions cost on N images, by the mean.

    Attributes:
      cost: of the decisions that are expected to cost least.
      expected: what they were expected to cost, by the probabilities.
      likeliest: of deciding for the likeliest class.
      changed: the number of images where both differ.
    """

    cost: float
    expected: float
    likeliest: float
    changed: int

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return {
            "cost": self.cost,
            "expected_cost": self.expected,
            "cost_of_the_likeliest": self.likeliest,
            "changed": self.changed,
        }


def expected_costs(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns what each decision is expected to cost [..., C].

    Args:
      probabilities: calibrated [..., C]; those that do not add up to 1, as sigmoids, are divided by their sum.
      costs: of an image of class j for which k is decided, [C, C] by j and k.

    >>> expected_costs(np.array([0.75, 0.25]), np.array([[0.0, 1.0], [10.0, 0.0]])).tolist()
    [2.5, 0.75]
    """
    total = np.maximum(probabilities.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    expected: np.ndarray = (probabilities / total) @ costs
    return expected


def measure_costs(labels: np.ndarray, probabilities: np.ndarray, likeliest: np.ndarray, costs: np.ndarray) -> Cost:
    """Returns what the decisions that are expected to cost least do cost, beside the likeliest classes.

    Args:
      labels: class indices [N], N at least 1.
      probabilities: calibrated [N, C].
      likeliest: the class of the highest logit of each [N]: probabilities may be rounded to the same number.
      costs: as of `expected_costs`.
    """
    expected = expected_costs(probabilities, costs)
    decided = expected.argmin(1)
    return Cost(
        cost=float(costs[labels, decided].mean()),
        expected=float(expected.min(1).mean()),
        likeliest=float(costs[labels, likeliest].mean()),
        changed=int((decided != likeliest).sum()),
    )


def cumulated(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the different scores, falling [K], and how many images, and positive ones, lie at or above each [K]."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    # Images of one score are above together.
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return falling[ends], ends + 1, positive[order].cumsum()[ends]


def _share_of(wanted: float, number: Any) -> Any:
    # 0.1 * 30 is 3.0000000000000004: three of thirty are a tenth all the same.
    return wanted * number - 1e-9


def _lowest(thresholds: np.ndarray, good: np.ndarray) -> float | None:
    return float(thresholds[np.flatnonzero(good)[-1]]) if good.any() else None
