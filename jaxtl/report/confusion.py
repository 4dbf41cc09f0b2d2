"""The confusion matrix: a picture of it, and the pairs of classes that are taken for each other most often."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from jaxtl.report.figure import new_figure, style, to_pixels, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Up to so many classes keep their order, and each cell shows its number.
_FEW = 20
# Beyond so many, names beside the picture could not be read.
_NAMED = 150
# Right and wrong: blue and orange, as in `report.figure.COLORS`.
_RIGHT, _WRONG = (0.0, 0.467, 0.733), (0.8, 0.333, 0.0)


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another.

    Attributes:
      actual: index of the true class.
      predicted: index of the class they were taken for.
      count: number of those images.
      share: of the images of the true class.
    """

    actual: int
    predicted: int
    count: int
    share: float


def confused_pairs(confusion: np.ndarray, *, limit: int = 10) -> list[Pair]:
    """Returns the pairs with most images first; of equally many, that with the larger share.

    Args:
      confusion: counts [C, C]; row: the true class, column: the predicted one.
      limit: how many to return at most.
    """
    confusion = np.asarray(confusion)
    images = confusion.sum(1)
    wrong = [
        Pair(int(i), int(j), int(confusion[i, j]), float(confusion[i, j] / images[i]))
        for i, j in np.argwhere(confusion > 0)
        if i != j
    ]
    return sorted(wrong, key=lambda pair: (-pair.count, -pair.share, pair.actual, pair.predicted))[:limit]


def similarity_order(confusion: np.ndarray) -> np.ndarray:
    """Returns the classes [C] in an order that puts those side by side which are taken for each other.

    Hierarchical clustering (average linkage, leaves in their optimal order) of the shares that two classes lend each
    other. Where nothing is confused, the order stays.
    """
    confusion = np.asarray(confusion, np.float64)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    lent = shares + shares.T
    np.fill_diagonal(lent, 0)
    if len(confusion) < 3 or not lent.any():
        return np.arange(len(confusion))
    # Here, since scipy takes a while that only large matrices should pay.
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    distances = squareform(1 - lent / lent.max(), checks=False)
    order: np.ndarray = leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))
    return order


def confusion_chart(confusion: np.ndarray, classes: Sequence[str]) -> Markup:
    """Returns the picture of a confusion matrix for a page; the arguments are those of `confusion_figure`."""
    confusion = np.asarray(confusion)
    right, total = int(np.trace(confusion)), int(confusion.sum())
    alt = f"Confusion matrix of {len(classes)} classes: {right:,} of {total:,} images lie on the diagonal."
    with style():
        return to_svg(confusion_figure(confusion, classes), alt)


def confusion_pixels(confusion: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Returns the same picture, uint8 [H, W, 3]."""
    with style():
        return to_pixels(confusion_figure(confusion, classes))


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Draws a confusion matrix, within `style`: the darker, the larger the share of the row's images.

    Up to 20 classes each cell shows its number; beyond that the classes are in `similarity_order`.

    Args:
      confusion: counts [C, C]; row: the true class, column: the predicted one.
      classes: the names of the C classes.
    """
    confusion = np.asarray(confusion)
    number = len(classes)
    order = similarity_order(confusion) if number > _FEW else np.arange(number)
    confusion, names = confusion[np.ix_(order, order)], [_short(classes[int(i)]) for i in order]
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    colors = np.empty((number, number, 4))
    colors[..., :3] = _WRONG
    colors[np.arange(number), np.arange(number), :3] = _RIGHT
    # What is rare must be seen, too: the square root lifts 1 % to 10 %.
    colors[..., 3] = 0.85 * np.sqrt(shares)
    side = float(np.clip(1.5 + 0.45 * number, 3.0, 10.0))
    size = float(np.clip(480 / max(number, 1), 4.5, 9))
    figure, axes = new_figure(side, side)
    axes.grid(False)
    axes.imshow(colors, interpolation="none", aspect="equal")
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    shown = range(number) if number <= _NAMED else ()
    axes.set_xticks(shown, [names[i] for i in shown], rotation=90, fontsize=size)
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=size)
    for i, j in np.argwhere(confusion > 0) if number <= _FEW else ():
        axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=size)
    return figure


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
