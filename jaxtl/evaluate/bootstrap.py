"""Intervals by the bootstrap: how far metrics would move with other images of the same kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxtl.evaluate.calibration import BINS, bin_of

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
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

    def take(self, index: np.ndarray) -> "Judged":
        """Returns what was said of the images `index` [n]."""
        labels, predicted = self.labels[index], self.predicted[index]
        return Judged(labels, predicted, self.log_losses[index], self.confidences[index], self.classes)


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
    (drawn,) = resampled_metrics([judged.take(order)], resamples=resamples, seed=seed)
    return intervals_of(drawn)


def resampled_metrics(models: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Returns the metrics of METRICS of each of M models on resamples of the images [M, 5, R].

    Args:
      models: what each said of the same N images, at least one, in the same order.
      resamples: number of draws R; each is of N images, with replacement, the same for all models.
      seed: of the draws.
    """
    rng, count = np.random.default_rng(seed), len(models[0].labels)
    drawn: list[np.ndarray] = []
    # What is summed by class takes a place for each class, too.
    rows = max(1, _CHUNK // max(count, models[0].classes))
    for first in range(0, resamples, rows):
        index = rng.integers(0, count, (min(rows, resamples - first), count))
        drawn.append(np.stack([metrics_of_draws(judged, index) for judged in models]))
    return np.concatenate(drawn, axis=2)


def intervals_of(drawn: np.ndarray) -> dict[str, list[float]]:
    """Returns the 95 % percentile intervals [low, high] of METRICS by name, from their values on resamples [5, R]."""
    bounds = np.percentile(drawn, [2.5, 97.5], axis=1)
    return {name: [round(float(bound), 6) for bound in bounds[:, i]] for i, name in enumerate(METRICS)}


def metrics_of_draws(judged: Judged, index: np.ndarray) -> np.ndarray:
    """Returns the metrics of METRICS on R resamples [5, R], of images `index` [R, N]."""
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
