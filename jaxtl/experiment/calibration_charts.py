"""The charts of a run that show how far its probabilities can be trusted, from what it kept of its predictions."""

from pathlib import Path

from markupsafe import Markup

from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.predictions import read_predictions
from jaxtl.evaluate.rejection import coverage_curve, energy, has_energy
from jaxtl.evaluate.scaling import quality
from jaxtl.experiment.calibrating import read_calibration
from jaxtl.report.calibration_chart import coverage_chart, reliability_chart


def calibration_charts(workdir: Path, split: str, *, sigmoid: bool) -> list[Markup]:
    """Returns a reliability diagram, before and after calibration if the run has one, and accuracy against coverage.

    Args:
      workdir: of a run, or of the eval command.
      split: whose predictions are looked at; without any of it there are no charts.
      sigmoid: whether each class has a probability of its own.

    Raises:
      UserError: predictions.npz or calibration.json cannot be read.
    """
    path = workdir / "predictions.npz"
    kept = read_predictions(path)[1].get(split) if path.exists() else None
    if kept is None or not len(kept.labels) or kept.several:
        return []
    calibration = read_calibration(workdir)
    scalings = [None] if calibration is None else [None, calibration.scaling]
    bins = [quality(kept.labels, kept.logits, scaling, sigmoid=sigmoid).reliability for scaling in scalings]
    logits = kept.logits if calibration is None else calibration.scaling.apply(kept.logits)
    correct = logits.argmax(1) == kept.labels
    scores = {"confidence": to_probabilities(logits, sigmoid=sigmoid).max(1)}
    if has_energy(kept.logits):
        scores["energy"] = energy(kept.logits, sigmoid=sigmoid)
    return [
        reliability_chart(*bins),
        coverage_chart({name: coverage_curve(score, correct) for name, score in scores.items()}),
    ]
