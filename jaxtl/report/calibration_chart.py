"""Charts of how far probabilities can be trusted: reliability diagrams, and accuracy against coverage."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from jaxtl.evaluate.calibration import ReliabilityBins
from jaxtl.evaluate.rejection import CoverageCurve
from jaxtl.report.figure import COLORS, new_figure, style, to_svg


def reliability_chart(before: ReliabilityBins, after: ReliabilityBins | None = None) -> Markup:
    """Draws accuracy against confidence: on the diagonal a classifier that is 80 % sure is right in 80 % of the cases.

    Each bin is a point at its mean confidence; its area tells its share of the images.

    Args:
      before: the bins of the model as it was trained.
      after: those of its calibrated probabilities; None where there are none.
    """
    series = {"as trained": before, **({} if after is None else {"calibrated": after})}
    with style():
        figure, axes = new_figure(4.5, 4.0)
        axes.plot([0, 100], [0, 100], color="gray", linestyle="--", linewidth=1, label="perfectly calibrated")
        told = []
        for (name, bins), color, marker in zip(series.items(), COLORS, "os", strict=False):
            there = bins.counts > 0
            share = bins.counts[there] / max(bins.counts.sum(), 1)
            x, y = 100 * bins.confidence[there], 100 * bins.accuracy[there]
            axes.plot(x, y, color=color, linewidth=1, alpha=0.6)
            ece = float((share * np.abs(y - x)).sum())
            axes.scatter(
                x, y, s=12 + 300 * share, color=color, marker=marker, alpha=0.8, label=f"{name}: ECE {ece:.1f} %"
            )
            told.append(f"{name} the expected calibration error is {ece:.1f} %")
        axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="confidence (%)", ylabel="accuracy (%)")
        axes.legend(loc="upper left", fontsize=8)
        return to_svg(figure, f"Reliability diagram, accuracy against confidence: {'; '.join(told)}.")


def coverage_chart(curves: Mapping[str, CoverageCurve]) -> Markup:
    """Draws the accuracy of the images that are kept against their share, from the least sure ones put aside on.

    Args:
      curves: by the name of what tells how sure the model is, such as "confidence".
    """
    with style():
        figure, axes = new_figure(6.0, 3.5)
        told = []
        for (name, curve), line in zip(curves.items(), ("-", "--", ":", "-."), strict=False):
            label = f"{name}: AURC {curve.aurc:.3g}"
            # As `accuracy_at` has it: between two points, where more must be kept than at the first, the second holds.
            axes.step(100 * curve.coverage, 100 * curve.accuracy, where="pre", linestyle=line, label=label)
            told.append(f"by {name} {100 * curve.accuracy_at(0.8):.1f} % are right of the 80 % that are kept first")
        axes.set(xlim=(0, 100), xlabel="images that are kept (%)", ylabel="accuracy of them (%)")
        axes.legend(loc="lower left", fontsize=8)  # Where the surest images are, which are right more often.
        return to_svg(figure, f"Accuracy against coverage: {'; '.join(told)}.")
