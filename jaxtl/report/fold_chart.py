"""The chart of a cross-validation: the accuracy of each fold."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jaxtl.report.figure import COLORS, new_figure, style, to_svg


def fold_chart(accuracies: Sequence[Sequence[float]], mean: float, interval: Sequence[float] | None) -> Markup:
    """Draws a point for the accuracy of each fold, a row for each repeat, with the mean and its interval.

    Args:
      accuracies: of the folds of each repeat, from 0 to 1.
      mean: of all.
      interval: of the mean; None where there is none.
    """
    with style():
        figure, axes = new_figure(6.5, 1.6 + 0.35 * len(accuracies))
        if interval is not None:
            low, high = (100 * bound for bound in interval)
            axes.axvspan(low, high, color=COLORS[0], alpha=0.15, linewidth=0, label="95 % interval of the mean")
        axes.axvline(100 * mean, color=COLORS[0], label="mean of all folds")
        for row, of_repeat in enumerate(accuracies, start=1):
            axes.scatter(100 * np.asarray(of_repeat), [row] * len(of_repeat), color=COLORS[1], s=28, zorder=3)
        names = [f"repeat {row}" for row in range(1, len(accuracies) + 1)] if len(accuracies) > 1 else ["folds"]
        axes.set_yticks(range(1, len(accuracies) + 1), names)
        axes.set(ylim=(len(accuracies) + 0.6, 0.4), xlabel="accuracy of a fold (%)")
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)
        least, most = (100 * function(map(function, accuracies)) for function in (min, max))
        alt = f"The accuracy of each fold: {least:.1f} to {most:.1f} %, {100 * mean:.1f} % in the mean."
        return to_svg(figure, alt)
