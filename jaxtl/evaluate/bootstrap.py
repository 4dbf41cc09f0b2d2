"""Intervals by the bootstrap: how far metrics would move with other images of the same kind."""

from dataclasses import dataclass, replace

import numpy as np

from jaxtl.evaluate.calibration import BINS, bin_of

RESAMPLES = 1000
# So many drawn images are looked at in one go: 32 MiB of indices.
_CHUNK = 2**22


@dataclass(frozen=True)
class Judged:
    """What a model said of each of N images.

    Attributes:
      labels: the true class [N].
      predicted: the predicted one [N].
      log_losses: [N].
      confidences: the probability of the predicted class [N].
      classes: their number.
    """

    labels: np.ndarray
    predicted: np.ndarray
    log_losses: np.ndarray
    confidences: np.ndarray
    classes: int

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right [N]."""
        return self.labels == self.predicted


def bootstrap_intervals(judged: Judged, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, list[float]]:
    """Returns 95 % percentile intervals: as many images are drawn again and again, with replacement.

    The balanced accuracy and the macro F1 of a resample go over the classes that it has images of.

    Args:
      judged: at least one image; their order does not matter.
      resamples: number of draws.
      seed: of the draws.

    Returns:
      "accuracy", "balanced_accuracy", "macro_f1", "log_loss" and "ece", each [low, high].
    """
    # Images in an order of their own: two that cannot be told apart may change places.
    order = np.lexsort((judged.confidences, judged.log_losses, judged.predicted, judged.labels))
    arrays = ("labels", "predicted", "log_losses", "confidences")
    judged = replace(judged, **{name: getattr(judged, name)[order] for name in arrays})
    rng, count = np.random.default_rng(seed), len(order)
    drawn: list[np.ndarray] = []
    # What is summed by class takes a place for each class, too.
    rows = max(1, _CHUNK // max(count, judged.classes))
    for first in range(0, resamples, rows):
        index = rng.integers(0, count, (min(rows, resamples - first), count))
        drawn.append(_metrics(judged, index))
    bounds = np.percentile(np.concatenate(drawn, axis=1), [2.5, 97.5], axis=1)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
    return {name: [round(float(bound), 6) for bound in bounds[:, i]] for i, name in enumerate(names)}


def _metrics(judged: Judged, index: np.ndarray) -> np.ndarray:
    """Returns the five metrics of R resamples [5, R], of images `index` [R, N]."""
    resamples, count = index.shape

    def sums(groups: np.ndarray, number: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Returns the number of drawn images of each group, or the sum of their weights [R, number]."""
        places = groups[index] + number * np.arange(resamples)[:, None]
        of_each = None if weights is None else weights[index].ravel()
        return np.bincount(places.ravel(), of_each, resamples * number).reshape(resamples, number)

    correct = judged.correct
    actual, predicted = (sums(part, judged.classes) for part in (judged.labels, judged.predicted))
    hits = sums(judged.labels, judged.classes, correct.astype(float))
    there = actual > 0
    recall = np.divide(hits, actual, out=np.zeros_like(hits), where=there)
    f1 = np.divide(2 * hits, actual + predicted, out=np.zeros_like(hits), where=there)
    gaps = sums(bin_of(judged.confidences), BINS, correct - judged.confidences)
    return np.stack(
        [
            correct[index].mean(1),
            recall.sum(1) / there.sum(1),
            f1.sum(1) / there.sum(1),
            judged.log_losses[index].mean(1),
            np.abs(gaps).sum(1) / count,
        ]
    )
