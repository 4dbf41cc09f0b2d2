"""From labels and logits to the metrics of a thorough report: scikit-learn's, and what it does not have."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxtl.evaluate.bootstrap import Judged, bootstrap_intervals
from jaxtl.evaluate.calibration import adaptive_calibration_error, brier_score, expected_calibration_error

# A confusion matrix grows with the square of the classes: 2,048 classes are 16 MiB a batch.
MAX_CONFUSION_CLASSES = 2048

# Of these numbers of highest classes, those that say anything are given.
_TOP = (1, 2, 3, 5, 10)


def detailed_metrics(
    labels: np.ndarray, logits: np.ndarray, classes: Sequence[str] | None = None, *, sigmoid: bool = False
) -> dict[str, Any]:
    """Returns the metrics of a classifier, as plain numbers, ready for JSON.

    What is undefined is None: of a class without images its recall, F1, ROC-AUC and average precision, and its
    precision if it is not predicted either. Of one class alone, specificity, ROC-AUC, average precision, kappa and MCC
    are None too. Macro means go over the classes with images, and say over how many; there, a class that is never
    predicted has precision 0.

    Args:
      labels: class indices [N], N at least 1.
      logits: finite [N, C]; [N] or [N, 1] are one logit for class 1 of two, by the sigmoid.
      classes: the names of the C classes; by default their indices.
      sigmoid: whether each class has a probability of its own. The log loss is then the sum over the classes.

    Returns:
      Shares "accuracy", "balanced_accuracy" and "top_k"; "log_loss"; "brier", from 0 to 2; "ece" and "adaptive_ece";
      "kappa" (Cohen's) and "mcc" (Matthews'); means "macro" and "weighted"; "per_class"; "confusion_matrix" (row: the
      true class), with kappa and MCC up to MAX_CONFUSION_CLASSES classes; and "intervals", 95 % by the bootstrap.
    """
    labels, logits = np.asarray(labels), two_columns(logits)
    number = logits.shape[1]
    if logits.shape[0] != len(labels) or not len(labels):
        raise ValueError(f"there are {len(labels)} labels and logits of the shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("some logits are not finite")
    names = [str(index) for index in range(number)] if classes is None else list(classes)
    probabilities, losses = probabilities_of(labels, logits, sigmoid=sigmoid)
    predicted = logits.argmax(1)
    correct = predicted == labels
    rows = np.arange(len(labels))
    confidences = probabilities[rows, predicted]
    per_class, weighted = _per_class(labels, predicted, probabilities)
    present = per_class["count"] > 0
    macro = {key: _mean(values[present]) for key, values in per_class.items() if key != "count"}
    # As of accumulators, ties count for the model.
    rank = (logits > logits[rows, labels][:, None]).sum(1)
    judged = Judged(labels, predicted, losses, confidences, number)
    return {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": macro["recall"],
        "top_k": {str(k): float((rank < k).mean()) for k in _TOP if k < number},
        "log_loss": float(losses.mean()),
        "brier": brier_score(labels, probabilities),
        "ece": expected_calibration_error(confidences, correct),
        "adaptive_ece": adaptive_calibration_error(confidences, correct),
        **_agreement(labels, predicted, number),
        "macro": {"classes": int(present.sum()), **macro},
        "weighted": weighted,
        "per_class": {
            name: {
                **{key: _plain(values[i]) for key, values in per_class.items() if key != "count"},
                "count": int(per_class["count"][i]),
            }
            for i, name in enumerate(names)
        },
        "intervals": bootstrap_intervals(judged),
    }


def two_columns(logits: np.ndarray) -> np.ndarray:
    """Returns logits [N, C]; one logit z of the sigmoid becomes (0, z), whose softmax it is."""
    logits = np.asarray(logits)
    logits = logits[:, None] if logits.ndim == 1 else logits
    return np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def to_probabilities(logits: np.ndarray, *, sigmoid: bool) -> np.ndarray:
    """Returns the probabilities of logits [..., C], in float64: by the softmax, or by the sigmoid of each class."""
    logits = np.asarray(logits, np.float64)
    if sigmoid:
        each: np.ndarray = np.exp(-np.logaddexp(0, -logits))
        return each
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    shares: np.ndarray = raised / raised.sum(-1, keepdims=True)
    return shares


def probabilities_of(labels: np.ndarray, logits: np.ndarray, *, sigmoid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities [N, C] and the log loss of each row [N], in float64.

    The loss comes from the logits: scikit-learn's, from probabilities, is cut at 36.
    """
    logits, rows = logits.astype(np.float64), np.arange(len(labels))
    if sigmoid:
        # Of each class that it is not the one; of the true class it is less by its logit.
        losses = np.logaddexp(0, logits).sum(1) - logits[rows, labels]
        return to_probabilities(logits, sigmoid=True), losses
    logits -= logits.max(1, keepdims=True)
    total = np.log(np.exp(logits).sum(1))
    return np.exp(logits - total[:, None]), total - logits[rows, labels]


def judge(labels: np.ndarray, logits: np.ndarray, *, sigmoid: bool = False) -> Judged:
    """Returns what is said of each image; the arguments are those of `detailed_metrics`."""
    logits = two_columns(logits)
    probabilities, losses = probabilities_of(labels, logits, sigmoid=sigmoid)
    predicted = logits.argmax(1)
    return Judged(labels, predicted, losses, probabilities[np.arange(len(labels)), predicted], logits.shape[1])


def _per_class(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns metrics of each class [C], NaN where undefined, and the means weighted by the classes' images."""
    # Here, since it takes a second that only evaluations should pay.
    from sklearn import metrics

    number = probabilities.shape[1]
    names = ("precision", "recall", "f1")
    of_all = {"y_true": labels, "y_pred": predicted, "labels": np.arange(number)}
    *values, count = metrics.precision_recall_fscore_support(**of_all, zero_division=0)
    *strict, _ = metrics.precision_recall_fscore_support(**of_all, zero_division=np.nan)
    present = count > 0
    found = {name: np.where(present, one, other) for name, one, other in zip(names, values, strict, strict=True)}
    found["f1"] = np.where(present, found["f1"], np.nan)
    wrongly = np.bincount(predicted[predicted != labels], minlength=number)
    others = len(labels) - count
    found["specificity"] = np.divide(others - wrongly, others, out=np.full(number, np.nan), where=others > 0)

    def ranked(score: Callable[..., float]) -> np.ndarray:
        some = present & (others > 0)
        return np.array(
            [score(labels == c, probabilities[:, c]) if some[c] else np.nan for c in range(number)], np.float64
        )

    found["roc_auc"] = ranked(metrics.roc_auc_score)
    found["average_precision"] = ranked(metrics.average_precision_score)
    weighted = {name: float((one * count).sum() / count.sum()) for name, one in zip(names, values, strict=True)}
    return {**found, "count": count}, weighted


def _agreement(labels: np.ndarray, predicted: np.ndarray, number: int) -> dict[str, Any]:
    """Returns the confusion matrix, and what is made of it."""
    from sklearn import metrics

    if number > MAX_CONFUSION_CLASSES:
        return {"kappa": None, "mcc": None}
    several = len(np.unique(labels)) > 1
    return {
        "kappa": float(metrics.cohen_kappa_score(labels, predicted)) if several else None,
        "mcc": float(metrics.matthews_corrcoef(labels, predicted)) if several else None,
        "confusion_matrix": metrics.confusion_matrix(labels, predicted, labels=np.arange(number)).tolist(),
    }


def _mean(values: np.ndarray) -> float | None:
    return _plain(values.mean())


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
