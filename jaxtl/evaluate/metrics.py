"""From accumulators to the metrics of results.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Of a normal distribution, 95 % lie within so many standard deviations.
_Z = 1.959964


def gives_top5(classes: int) -> bool:
    """Tells whether top-5 accuracy says anything: of five classes, each is among the first five."""
    return classes > 5


def compute_metrics(
    accumulators: Mapping[str, np.ndarray], classes: Sequence[str], *, always_top5: bool = False
) -> dict[str, Any]:
    """Returns the metrics of one evaluation, as plain numbers, ready for JSON.

    Precision, recall and F1 are macro averages over the classes that occur, as a true class or as a prediction; a class
    without predictions has precision 0, and one without examples recall 0. Of several labels an image, "accuracy" is
    the share of images whose labels are all right (the subset accuracy), and there is a "hamming_loss".

    Args:
      accumulators: what `accumulate.add_up` returned.
      classes: the names of the C classes.
      always_top5: whether to give top-5 accuracy of five classes or fewer too, which is 1.
    """
    count = int(accumulators["count"])
    hits, predicted, actual = (np.asarray(accumulators[key], np.float64) for key in ("hits", "predicted", "actual"))
    precision = _ratio(hits, predicted)
    recall = _ratio(hits, actual)
    f1 = _ratio(2 * hits, predicted + actual)
    occurs = (predicted + actual) > 0
    several = "mistakes" in accumulators
    top5 = not several and (always_top5 or gives_top5(len(classes)))
    result: dict[str, Any] = {
        "accuracy": int(accumulators["correct"]) / count,
        "accuracy_interval": wilson_interval(int(accumulators["correct"]), count),
        **({"top5": int(accumulators["top5"]) / count} if top5 else {}),
        **({"hamming_loss": int(accumulators["mistakes"]) / (count * len(classes))} if several else {}),
        "loss": float(accumulators["loss"]) / count,
        "precision": float(precision[occurs].mean()),
        "recall": float(recall[occurs].mean()),
        "f1": float(f1[occurs].mean()),
        "count": count,
        "per_class": {
            name: {"precision": p, "recall": r, "f1": f, "count": n}
            for name, p, r, f, n in zip(
                classes, precision.tolist(), recall.tolist(), f1.tolist(), actual.astype(int).tolist(), strict=True
            )
        },
    }
    if "confusion" in accumulators:
        result["confusion_matrix"] = np.asarray(accumulators["confusion"]).tolist()
    return result


def wilson_interval(hits: int, count: int) -> list[float]:
    """Returns the lowest and the highest share that so many hits leave likely, with 95 % confidence (Wilson, 1927).

    Unlike a bootstrap it says something of all hits, too: 8 of 8 are 0.676 to 1.
    """
    share, square = hits / count, _Z**2 / count
    middle = share + square / 2
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    return [round(bound / (1 + square), 6) for bound in (middle - half, middle + half)]


def percent_interval(bounds: Sequence[float]) -> str:
    """Returns an interval of shares in percent, in no more digits than it is worth.

    >>> percent_interval([0.5291, 0.9776]), percent_interval([0.925, 0.977])
    ('53 to 98', '92.5 to 97.7')
    """
    low, high = (100 * bound for bound in bounds)
    digits = 1 if high - low < 10 else 0
    return f"{low:.{digits}f} to {high:.{digits}f}"


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scalar metrics alone: what a log line or a curve shows."""
    return {key: value for key, value in result.items() if isinstance(value, float)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def headline(result: Mapping[str, Any]) -> str:
    """Returns the metrics of one evaluation in one line for a person.

    >>> metrics = {"accuracy": 0.875, "accuracy_interval": [0.5291, 0.9776], "f1": 0.8, "loss": 0.25, "count": 8}
    >>> headline(metrics)
    'accuracy 87.5 % of 8 images (95 % interval 53 to 98)  F1 80.0 %  loss 0.2500'
    """
    interval = ""
    if "accuracy_interval" in result:
        interval = f" (95 % interval {percent_interval(result['accuracy_interval'])})"
    names = (("top5", "top-5"), ("f1", "F1"), ("map", "mAP"))
    shares = [f"{name} {100 * result[key]:.1f} %" for key, name in names if result.get(key) is not None]
    subset = "subset " if "hamming_loss" in result else ""
    images = "image" if result["count"] == 1 else "images"
    accuracy = f"{subset}accuracy {100 * result['accuracy']:.1f} % of {result['count']:,} {images}{interval}"
    fitted = ["(in-sample: it was fitted to these images)"] if result.get("in_sample") else []
    return "  ".join([accuracy, *shares, f"loss {result['loss']:.4f}", *fitted])


def detailed_headline(result: Mapping[str, Any]) -> str:
    r"""Returns what `headline` leaves out, of `detailed_metrics`, with 95 % intervals.

    >>> intervals = {key: [0.2, 0.9] for key in ("balanced_accuracy", "macro_f1", "log_loss", "ece")}
    >>> metrics = {"balanced_accuracy": 0.875, "macro": {"f1": 0.8}, "log_loss": 0.25, "ece": 0.25}
    >>> print(*detailed_headline({**metrics, "intervals": intervals}).split("  "), sep="\n")
    balanced accuracy 87.5 % (20 to 90)
    macro F1 80.0 % (20 to 90)
    log loss 0.2500 (0.200 to 0.900)
    ECE 25.0 % (20 to 90)
    """
    intervals = result["intervals"]

    def share(name: str, key: str, value: float) -> str:
        # Where all images are right, the bootstrap knows of no others: that is no interval.
        told = f" ({percent_interval(intervals[key])})" if intervals[key][0] < intervals[key][1] else ""
        return f"{name} {100 * value:.1f} %{told}"

    if "hamming_loss" in result:
        return "  ".join(
            [
                *([share("macro F1", "macro_f1", result["macro"]["f1"])] if "macro_f1" in intervals else []),
                *([share("mAP", "map", result["map"])] if "map" in intervals else []),
                f"Hamming loss {100 * result['hamming_loss']:.1f} %",
            ]
        )
    low, high = intervals["log_loss"]

    return "  ".join(
        [
            share("balanced accuracy", "balanced_accuracy", result["balanced_accuracy"]),
            share("macro F1", "macro_f1", result["macro"]["f1"]),
            f"log loss {result['log_loss']:.4f} ({low:.3f} to {high:.3f})",
            share("ECE", "ece", result["ece"]),
        ]
    )
