"""Which images of a split are worth a look: the worst mistakes, the least certain, and examples of confused pairs."""

import numpy as np

from jaxtl.report.confusion import Pair
from jaxtl.report.facts import Classified


def worst_mistakes(found: Classified, *, limit: int = 24) -> np.ndarray:
    """Returns the wrongly classified images, by falling probability of what they were taken for: indices."""
    wrong = np.flatnonzero(found.predicted != found.labels)
    return wrong[np.argsort(-found.probabilities[wrong, found.predicted[wrong]], kind="stable")][:limit]


def most_wrong_labels(labels: np.ndarray, decided: np.ndarray, losses: np.ndarray, *, limit: int = 24) -> np.ndarray:
    """Returns the images with a wrong label, by falling loss: indices.

    Args:
      labels: which labels each image has [N, C].
      decided: which are predicted [N, C].
      losses: of the images [N].
      limit: how many to return at most.
    """
    wrong = np.flatnonzero(((labels > 0) != decided).any(1))
    return wrong[np.argsort(-losses[wrong], kind="stable")][:limit]


def least_certain(probabilities: np.ndarray, *, limit: int = 12) -> np.ndarray:
    """Returns the images whose two likeliest classes are closest, the closest first: indices."""
    two = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.argsort(two[:, 1] - two[:, 0], kind="stable")[:limit]


def examples_of(pair: Pair, found: Classified, *, limit: int = 3) -> np.ndarray:
    """Returns images of a confused pair, those that the model was surest of first: indices."""
    chosen = np.flatnonzero((found.labels == pair.actual) & (found.predicted == pair.predicted))
    return chosen[np.argsort(-found.probabilities[chosen, pair.predicted], kind="stable")][:limit]
