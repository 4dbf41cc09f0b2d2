"""From the test folds to one estimate: means with intervals that know how far training sets overlap, and per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.evaluate.accumulate import MAX_CONFUSION_CLASSES
from jaxtl.evaluate.bootstrap import METRICS, Judged
from jaxtl.evaluate.details import judge
from jaxtl.evaluate.metrics import wilson_interval
from jaxtl.evaluate.paired import plain_metrics


@dataclass(frozen=True)
class TestFold:
    """What a model said of the fold that it was tested on.

    Attributes:
      number: of the fold, from 1.
      repeat: which cut into folds it is of, from 1.
      names: of the images [N].
      labels: their classes [N].
      logits: [N, C].
      trained: how many images it was trained on, and chosen by.
    """

    __test__ = False  # To pytest.

    number: int
    repeat: int
    names: Sequence[str]
    labels: np.ndarray
    logits: np.ndarray
    trained: int


def summarise(folds: Sequence[TestFold], classes: Sequence[str], *, sigmoid: bool = False) -> dict[str, Any]:
    """Returns the metrics over folds as plain numbers, ready for JSON.

    Args:
      folds: of all repeats, at least two.
      classes: the names of the C classes.
      sigmoid: whether each class has a probability of its own.

    Returns:
      "metrics": of each of `bootstrap.METRICS` the "mean" over folds, their standard deviation "std", and "interval",
      95 % (see `corrected_interval`). "per_class": of each class "count", and "recall", "precision" and "f1" likewise,
      over the folds that have images of it; None where none has. Intervals of accuracy, recall and precision hold
      Wilson's, too, of the out-of-fold predictions of all images, which one repeat counts once: folds that happen to
      agree do not say what other images would give. "per_fold": the metrics of each. "confusion_matrix": of all repeats
      together (row: the true class). "test_to_train": the ratio of images that the correction takes.
    """
    judged = [judge(fold.labels, fold.logits, sigmoid=sigmoid) for fold in folds]
    plain = [plain_metrics(each) for each in judged]
    ratio = float(np.mean([len(fold.labels) / fold.trained for fold in folds]))
    repeats = max(fold.repeat for fold in folds)
    metrics = {
        name: _estimate(np.array([values[name] for values in plain]), ratio, share=name != "log_loss")
        for name in METRICS
    }
    hits = sum(int(each.correct.sum()) for each in judged)
    metrics["accuracy"] = _with_wilson(metrics["accuracy"], hits, sum(len(fold.labels) for fold in folds), repeats)
    return {
        "metrics": metrics,
        "per_class": _per_class(judged, classes, ratio, repeats),
        "per_fold": [
            {"fold": fold.number, "repeat": fold.repeat, "count": len(fold.labels), "trained": fold.trained, **values}
            for fold, values in zip(folds, plain, strict=True)
        ],
        "confusion_matrix": _confusion(judged).tolist() if len(classes) <= MAX_CONFUSION_CLASSES else None,
        "test_to_train": ratio,
    }


def corrected_interval(values: np.ndarray, ratio: float) -> tuple[float, float]:
    """Returns the 95 % interval of the mean over folds, by the corrected resampled t-test.

    Training sets overlap, so the results of folds are not independent, and their variance divided by their number J is
    too small. With the ratio of test to training images in its place, (1 / J + ratio) * variance, the test keeps its
    level (Nadeau and Bengio, 2003, https://doi.org/10.1023/A:1024068626366; for repeats Bouckaert and Frank, 2004).

    Args:
      values: of each fold and repeat [J], J at least 2.
      ratio: images of a test fold by images that trained.

    >>> [round(bound, 4) for bound in corrected_interval(np.array([0.9, 0.92, 0.94, 0.96, 0.98]), 0.25)]
    [0.8811, 0.9989]
    """
    # Here, for what only cross-validation should pay.
    from scipy.special import stdtrit

    count = len(values)
    half = float(stdtrit(count - 1, 0.975)) * float(np.sqrt((1 / count + ratio) * values.var(ddof=1)))
    mean = float(values.mean())
    return mean - half, mean + half


def _estimate(values: np.ndarray, ratio: float, *, share: bool = True) -> dict[str, Any] | None:
    """Returns mean, standard deviation and interval of values, NaN where undefined; None if all are."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if len(values) == 1:
        return {"mean": float(values[0]), "std": None, "interval": None, "folds": 1}
    low, high = corrected_interval(values, ratio)
    interval = [max(low, 0.0), min(high, 1.0) if share else high]
    return {"mean": float(values.mean()), "std": float(values.std(ddof=1)), "interval": interval, "folds": len(values)}


def _with_wilson(estimate: dict[str, Any] | None, hits: int, count: int, repeats: int) -> dict[str, Any] | None:
    """Returns an estimate of a share whose interval holds that of the hits, too, among as many as one repeat has."""
    if estimate is None or estimate["interval"] is None or not count:
        return estimate
    low, high = estimate["interval"]
    lowest, highest = wilson_interval(round(hits / repeats), max(1, round(count / repeats)))
    return {**estimate, "interval": [min(low, lowest), max(high, highest)]}


def _confusion(judged: Sequence[Judged]) -> np.ndarray:
    """Returns the confusion matrix of all folds together [C, C]."""
    matrix = np.zeros((judged[0].classes, judged[0].classes), np.int64)
    for each in judged:
        np.add.at(matrix, (each.labels, each.predicted), 1)
    return matrix


def _per_class(
    judged: Sequence[Judged], classes: Sequence[str], ratio: float, repeats: int
) -> dict[str, dict[str, Any]]:
    """Returns of each class the number of its images, and estimates of its recall, precision and F1."""

    def count(of: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.bincount(classes, minlength=judged[0].classes) for classes in of])

    hits = count([each.labels[each.correct] for each in judged])
    actual, predicted = count([each.labels for each in judged]), count([each.predicted for each in judged])

    def divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        # A class that is never predicted has precision 0, as elsewhere.
        shares = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
        return np.where(actual > 0, shares, np.nan)

    recall, precision, f1 = (divided(hits, actual), divided(hits, predicted), divided(2 * hits, actual + predicted))

    def of_class(c: int) -> dict[str, Any]:
        right = int(hits[:, c].sum())
        of_label, of_prediction = int(actual[:, c].sum()), int(predicted[:, c].sum())
        return {
            "count": of_label // repeats,
            "recall": _with_wilson(_estimate(recall[:, c], ratio), right, of_label, repeats),
            "precision": _with_wilson(_estimate(precision[:, c], ratio), right, of_prediction, repeats),
            "f1": _estimate(f1[:, c], ratio),
        }

    return {name: of_class(c) for c, name in enumerate(classes)}
