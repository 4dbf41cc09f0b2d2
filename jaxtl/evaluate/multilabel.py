"""Metrics of several labels an image: each label is a yes or no of its own, by the sigmoid of its logit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.multilabel_bootstrap import multilabel_intervals
from jaxtl.evaluate.operating_points import cumulated


def multilabel_metrics(
    labels: np.ndarray, logits: np.ndarray, classes: Sequence[str] | None = None, *, intervals: bool = True
) -> dict[str, Any]:
    """Returns the metrics of a multi-label classifier, as plain numbers, ready for JSON.

    A label is predicted where its probability is 0.5 or more. What is undefined is None: of a label without positives
    its recall, F1 and average precision, of one that all images or none have its ROC-AUC. Macro means go over the
    labels with positives; there, one that is never predicted has precision 0.

    Args:
      labels: which labels each image has, 0 and 1 [N, C], N at least 1.
      logits: finite [N, C].
      classes: the names of the C labels; by default their indices.
      intervals: whether to give "intervals", which take longest.

    Returns:
      What `decision_metrics` gives at 0.5; "log_loss", the sum over the labels; "map", the mean average precision over
      the labels that some images have and some have not; "lrap" and "coverage_error", of the ranking of each image's
      labels; and "intervals", 95 % by the bootstrap, of "subset_accuracy", "macro_f1" and "map".
    """
    from sklearn import metrics

    labels, logits = np.asarray(labels) > 0, np.asarray(logits, np.float64)
    if labels.shape != logits.shape or labels.ndim != 2 or not len(labels):
        raise ValueError(f"there are labels of the shape {labels.shape} and logits of the shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("some logits are not finite")
    names = [str(index) for index in range(labels.shape[1])] if classes is None else list(classes)
    probabilities, decided = to_probabilities(logits, sigmoid=True), logits >= 0
    found = decision_metrics(labels, decided, names)
    ranked = _ranked(labels, probabilities)
    for i, name in enumerate(names):
        found["per_class"][name] |= {key: _plain(values[i]) for key, values in ranked.items()}
    found["macro"] |= {key: _mean(values) for key, values in ranked.items()}
    return {
        **found,
        "log_loss": float(log_losses(labels, logits).mean()),
        "map": found["macro"]["average_precision"],
        "lrap": float(metrics.label_ranking_average_precision_score(labels, logits)),
        "coverage_error": float(metrics.coverage_error(labels, logits)),
        **({"intervals": multilabel_intervals(labels, logits, decided)} if intervals else {}),
    }


def decision_metrics(labels: np.ndarray, decided: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns what follows from which labels are predicted, whatever the probabilities.

    Args:
      labels: which labels each image has [N, C].
      decided: which are predicted [N, C].
      names: of the labels.

    Returns:
      "subset_accuracy", the share of images whose labels are all right; "hamming_loss", the share of wrong labels;
      "micro" (of all decisions together), "macro" (means over labels) and "samples" (means over images, where an image
      without labels of which none is predicted is right) with precision, recall and F1; and "per_class".
    """
    labels, decided = np.asarray(labels) > 0, np.asarray(decided) > 0
    hits, predicted, actual = ((labels & decided).sum(0), decided.sum(0), labels.sum(0))
    present, absent = actual > 0, len(labels) - actual
    # As of single labels: a label with positives that is never predicted has precision 0.
    precision = np.where(present & (predicted == 0), 0.0, _ratio(hits, predicted))
    per_class = {
        "precision": precision,
        "recall": _ratio(hits, actual),
        "f1": np.where(present, _ratio(2 * hits, predicted + actual), np.nan),
        "specificity": _ratio(absent - (predicted - hits), absent),
    }
    of_image = ((labels & decided).sum(1), decided.sum(1), labels.sum(1))
    return {
        "subset_accuracy": float((labels == decided).all(1).mean()),
        "hamming_loss": float((labels != decided).mean()),
        "micro": {key: _plain(value) for key, value in _shares(hits.sum(), predicted.sum(), actual.sum()).items()},
        "macro": {"classes": int(present.sum()), **{key: _mean(each[present]) for key, each in per_class.items()}},
        "samples": {key: float(np.nan_to_num(each, nan=1.0).mean()) for key, each in _shares(*of_image).items()},
        "per_class": {
            name: {**{key: _plain(each[i]) for key, each in per_class.items()}, "count": int(actual[i])}
            for i, name in enumerate(names)
        },
    }


def choose_thresholds(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns for each label the threshold of its probability with the highest F1, float64 [C].

    A label is predicted where its probability is at or above its threshold. Of equally good ones the nearest to 0.5 is
    taken, and where no image has the label, 0.5. Thresholds lie between probabilities, so that rounding decides
    nothing.

    >>> choose_thresholds(np.array([[1], [1], [0]]), np.log([[3.0], [0.25], [1 / 9]]))
    array([0.15])

    Args:
      labels: which labels each image has [N, C].
      logits: [N, C].
    """
    scores = to_probabilities(logits, sigmoid=True)
    return np.array([_best_threshold(scores[:, c], labels[:, c] > 0) for c in range(labels.shape[1])])


def mean_average_precision(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Returns the mean average precision over the labels that some images have and some have not; None without any.

    The arguments are those of `choose_thresholds`.
    """
    counts = labels.sum(0)
    some = np.flatnonzero((counts > 0) & (counts < len(labels)))
    found = [_average_precision(logits[:, c], labels[:, c] > 0) for c in some]
    return float(np.mean(found)) if found else None


def log_losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns the sum over the labels of one sigmoid cross entropy each, of each image [N]."""
    logits = np.asarray(logits, np.float64)
    losses: np.ndarray = (np.logaddexp(0, logits) - labels * logits).sum(1)
    return losses


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    if not positive.any():
        return 0.5
    falling, above, hits = cumulated(scores, positive)
    f1 = 2 * hits / (above + positive.sum())
    # All thresholds above the next score predict the same.
    below = np.append(falling[1:], 0.0)
    middle = (below + falling) / 2
    cuts = np.where((below < 0.5) & (falling >= 0.5), 0.5, np.where(middle > below, middle, falling))
    best = cuts[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    _, above, hits = cumulated(scores, positive)
    return float((np.diff(hits, prepend=0) * hits / above).sum() / hits[-1])


def _ranked(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Returns ROC-AUC and average precision of each label [C], NaN where not both kinds of images are there."""
    from sklearn import metrics

    counts = labels.sum(0)
    some = (counts > 0) & (counts < len(labels))
    scores = {"roc_auc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}
    return {
        key: np.array([score(labels[:, c], probabilities[:, c]) if some[c] else np.nan for c in range(len(some))])
        for key, score in scores.items()
    }


def _shares(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, actual),
        "f1": _ratio(2 * hits, predicted + actual),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns the quotient, NaN where it is undefined."""
    part = np.asarray(part, np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
