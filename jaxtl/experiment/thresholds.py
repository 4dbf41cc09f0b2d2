"""The thresholds of several labels an image: chosen on val at the end of a run, and found again by who uses it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.multilabel import choose_thresholds, decision_metrics
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.measuring import Measured

DEFAULT = 0.5
"""The threshold where none was chosen."""


def with_thresholds(
    experiment: Experiment, measured: Mapping[str, Measured], thresholds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Adds to the metrics of several labels an image "at_thresholds": what follows from other thresholds than 0.5.

    Args:
      experiment: whose classes they are.
      measured: by split, some of several labels.
      thresholds: of each class; None to choose those with the highest F1 on val, from its logits as predictions.npz
        has them.

    Returns:
      What results.json holds of it, {"thresholds": {class: threshold}}; {} where no logits were kept.
    """
    classes = experiment.model.classes
    val = measured.get("val")
    if thresholds is None and val is not None and val.arrays and val.arrays["val_labels"].ndim == 2:
        chosen = choose_thresholds(val.arrays["val_labels"], val.arrays["val_logits"].astype(np.float32))
        thresholds = dict(zip(classes, chosen.tolist(), strict=True))
    if thresholds is None:
        return {}
    cuts = np.array([thresholds.get(name, DEFAULT) for name in classes])
    for split, found in measured.items():
        if found.arrays and found.arrays[f"{split}_labels"].ndim == 2:
            decided = to_probabilities(found.arrays[f"{split}_logits"], sigmoid=True) >= cuts
            found.metrics["at_thresholds"] = decision_metrics(found.arrays[f"{split}_labels"], decided, classes)
    return {"thresholds": dict(thresholds)}


def read_thresholds(workdir: Path) -> dict[str, float]:
    """Returns the threshold of each class of a run by its name; {} where none were chosen, and says so on stderr."""
    path = workdir / "results.json"
    found = files.read_json(path).get("thresholds") if path.exists() else None
    if found is None:
        why = "its logits on val were not kept" if path.exists() else "it is not finished"
        print(f"note: {workdir} has chosen no thresholds, since {why}: {DEFAULT} is taken for all", file=sys.stderr)
    return dict(found or {})
