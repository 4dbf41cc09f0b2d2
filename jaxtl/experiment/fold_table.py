"""What a cross-validation gave, as a table for a person."""

from collections.abc import Mapping
from typing import Any

from jaxtl.evaluate.metrics import percent_interval

# Results up to which the spread of folds is hardly known.
_FEW = 3
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "ece": "ECE",
}


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """Returns the metrics over folds, those of each class, and the accuracy of each fold, of crossval.json."""
    folds = results["per_fold"]
    lines = [
        headline(results),
        "means over folds, and 95 % intervals that allow for overlapping training sets",
    ]
    if note := few_results(results):
        lines.append(f"note      {note}")
    for key, title in TITLES.items():
        found = results["metrics"][key]
        if key == "log_loss":
            low, high = found["interval"]
            lines.append(f"{title:<18} {found['mean']:.4f}  ({low:.3f} to {high:.3f})")
        else:
            lines.append(f"{title:<18} {share_in_words(found)}")
    width = max(len("class"), *map(len, results["per_class"]))
    lines += ["", f"{'class':<{width}}  {'images':>6}  {'recall':<25}  {'precision':<25}  F1"]
    for name, of in results["per_class"].items():
        cells = "  ".join(f"{share_in_words(of[key]):<25}" for key in ("recall", "precision", "f1"))
        lines.append(f"{name:<{width}}  {of['count']:>6,}  {cells}".rstrip())
    lines.append("")
    for repeat in range(1, results["repeats"] + 1):
        accuracies = "  ".join(f"{100 * fold['accuracy']:.1f}" for fold in folds if fold["repeat"] == repeat)
        title = f"folds of repeat {repeat}" if results["repeats"] > 1 else "folds"
        lines.append(f"{title:<18} accuracy {accuracies} %")
    return lines


def headline(results: Mapping[str, Any]) -> str:
    """Returns what was cut, how often, and what was trained on it."""
    images = sum(fold["count"] for fold in results["per_fold"]) // results["repeats"]
    repeats = f" x {results['repeats']} repeats" if results["repeats"] > 1 else ""
    return f"{results['folds']} folds{repeats} of {results['pool']} ({images:,} images), {results['trained']}"


def few_results(results: Mapping[str, Any]) -> str:
    """Returns a note that the intervals rest on few results, or ""."""
    number = len(results["per_fold"])
    more = "more --folds or --repeats tell more"
    return f"the intervals rest on {number} results only, the folds: {more}" if number <= _FEW else ""


def share_in_words(found: Mapping[str, Any] | None) -> str:
    """Returns a mean and its interval in percent."""
    if found is None:
        return "-"
    bounds = found["interval"]
    # Where all folds agree, they know of nothing else: that is no interval.
    interval = "" if bounds is None or bounds[0] == bounds[1] else f"  ({percent_interval(bounds)})"
    return f"{100 * found['mean']:5.1f} %{interval}"
