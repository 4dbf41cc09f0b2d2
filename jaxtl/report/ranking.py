"""Curves over all thresholds: ROC and precision-recall, of each class against the rest."""

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from jaxtl.report.figure import INK, legend_label, new_figure, style, to_svg

# Up to so many classes each curve has a name; beyond, all are thin and only their mean has one.
_NAMED = 8
# Of more classes, so many are drawn, spread over all: each takes a sort of all images.
_DRAWN = 200
# So many thresholds of the false positive rate, or the recall, are drawn of each curve.
_POINTS = np.linspace(0, 1, 101)

Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def roc_chart(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Markup | None:
    """Returns the ROC curves of the classes that have images, and their mean; None where no class can have one.

    Args:
      labels: class indices [N]; of several labels an image 0 and 1 [N, C].
      probabilities: of the classes [N, C].
      classes: their names.
    """
    return _chart(labels, probabilities, classes, _roc, ("false positive rate", "true positive rate"), "ROC")


def precision_recall_chart(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Markup | None:
    """Returns the precision-recall curves likewise; precision is the best that a recall of at least so much allows."""
    axes = ("recall", "precision")
    return _chart(labels, probabilities, classes, _precision_recall, axes, "Precision-recall")


def _roc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(positive, scores)
    return np.interp(_POINTS, false, true)


def _precision_recall(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(positive, scores)
    best = np.maximum.accumulate(precision)  # From the highest recall to the lowest.
    return best[np.searchsorted(-recall, -_POINTS, side="right") - 1]


def _chart(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    curve: Curve,
    axes_names: tuple[str, str],
    title: str,
) -> Markup | None:
    several = labels.ndim == 2
    # One column a class, whether an image is of it.
    of_class = labels > 0 if several else labels[:, None] == np.arange(len(classes))
    counts = of_class.sum(0)
    with_images = [c for c in range(len(classes)) if 0 < counts[c] < len(labels)]
    if not with_images:
        return None
    # The curve of one of two classes tells all about the other.
    drawn = with_images[1:] if len(classes) == 2 and not several else with_images
    of_all = ""
    if len(drawn) > _DRAWN:
        drawn = [drawn[i] for i in np.linspace(0, len(drawn) - 1, _DRAWN).astype(int)]
        of_all = f" of {len(with_images)}"
    curves = {c: curve(of_class[:, c], probabilities[:, c]) for c in drawn}
    mean = np.mean(list(curves.values()), axis=0)
    with style():
        figure, axes = new_figure(5, 4)
        named = len(drawn) <= _NAMED
        for c, values in curves.items():
            if named:
                axes.plot(_POINTS, values, label=legend_label(classes[c]))
            else:
                axes.plot(_POINTS, values, color="#888888", linewidth=0.5, alpha=0.6)
        if len(drawn) > 1:
            axes.plot(_POINTS, mean, color=INK, linestyle="--", label=f"mean of {len(drawn)} classes{of_all}")
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xlim=(0, 1), ylim=(0, 1.02), title=title)
        axes.legend(loc="lower center", fontsize=8)  # Below the curves, which are high where a class is known.
        alt = f"{title} curves of {len(drawn)} classes, {axes_names[1]} against {axes_names[0]}."
        return to_svg(figure, alt)
