"""A run that did not train: weights made of those of other runs, measured and written as a run of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.checkpoints.retention import Score
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.calibrating import calibrate
from jaxtl.experiment.measuring import measure, write_predictions
from jaxtl.experiment.records import write_records
from jaxtl.experiment.scorer import Scorer
from jaxtl.experiment.thresholds import with_thresholds


@dataclass(frozen=True)
class Origin:
    """Where weights come from that no training made.

    Attributes:
      config: that of a run like theirs, which says what their data are.
      facts: of their model, as model.json has them.
      inputs: digests of their data.
      location: what weights.json says of where they come from.
      notes: what else it says.
    """

    config: ConfigDict
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    location: str
    notes: Sequence[str] = ()


def measure_run(
    experiment: Experiment, scorer: Scorer, variables: Mapping[str, Any], workdir: Path, *, step: int, weights: str
) -> dict[str, Any]:
    """Measures weights on val and test; writes predictions.npz and calibration.json.

    Args:
      experiment: that they are of.
      scorer: of the experiment.
      variables: the weights, as arrays.
      workdir: of the new run.
      step: that stands for theirs.
      weights: where they come from, in words.

    Returns:
      What results.json holds of any run.
    """
    on_devices = experiment.partitioner.shard_state(variables)
    splits = {"val": experiment.splits.val, "test": experiment.splits.test}
    measured = {
        name: measure(experiment, scorer.evaluator, on_devices, name, split)
        for name, split in splits.items()
        if split is not None
    }
    found = {name: each.metrics for name, each in measured.items()}
    chosen = with_thresholds(experiment, measured)
    write_predictions(workdir, experiment.model.classes, *measured.values())
    calibration = calibrate(experiment, workdir, measured, step=step)
    return {
        "model": experiment.model.name,
        "weights": weights,
        "data": experiment.config.data.source,
        "classes": list(experiment.model.classes),
        "loss": experiment.loss_name,
        "parameters": experiment.plan.counts,
        "steps": step,
        "best_step": step,
        "monitor": scorer.monitor,
        **found,
        **chosen,
        **calibration,
    }


def write_run(
    experiment: Experiment, variables: Mapping[str, Any], origin: Origin, workdir: Path, *, step: int, score: Score
) -> None:
    """Writes what makes a workdir a run, but for its results.

    Args:
      experiment: that the weights are of.
      variables: the weights, as numpy arrays.
      origin: where they come from.
      workdir: of the new run.
      step: that stands for theirs.
      score: on val.
    """
    files.write_json(workdir / "config.json", config_lib.to_dict(origin.config))
    files.write_json(workdir / "model.json", origin.facts)
    if origin.inputs:
        files.write_json(workdir / "inputs.json", origin.inputs)
    report = experiment.load_report
    assert report is not None
    report.location, report.revision = origin.location, ""
    report.notes = [*report.notes, *origin.notes]
    files.write_json(workdir / "weights.json", report.to_json())
    write_records(experiment, workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(step, variables, {"step": np.asarray(step, np.int32)}, {}, score)
