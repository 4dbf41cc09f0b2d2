"""The last measurement of a split: all its metrics and its predictions, from one pass over the data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.evaluate.accumulate import batch_accumulators
from jaxtl.evaluate.details import detailed_metrics
from jaxtl.evaluate.evaluator import Evaluator
from jaxtl.evaluate.metrics import compute_metrics
from jaxtl.evaluate.multilabel import multilabel_metrics
from jaxtl.evaluate.predictions import as_arrays, as_half
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.parallel import processes

# Logits past this number (those of 130,000 images of 1,000 classes) do not fit beside what is computed of them.
_MAX_LOGITS = 2**27


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
      metrics: as results.json holds them.
      arrays: as predictions.npz holds them.
    """

    metrics: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def measure(
    experiment: Experiment,
    evaluator: Evaluator,
    variables: Any,
    split: str,
    dataset: Dataset,
    stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measures variables, on the devices, on a split; in all processes alike.

    Args:
      experiment: whose classes and loss they are.
      evaluator: of such variables.
      variables: on the devices.
      split: what the split is called in files.
      dataset: its examples.
      stop: asked after each batch whether to leave it at that.

    Raises:
      Stopped: `stop` said so.
    """
    classes = experiment.model.classes
    if not can_keep(dataset, classes):
        _note(f"{len(dataset):,} images x {len(classes):,} classes are too many logits to keep", split)
        return Measured(_computed(experiment, evaluator(variables, dataset, stop)))
    accumulators, logits = evaluator.with_logits(variables, dataset, stop)
    metrics = _computed(experiment, accumulators)
    if not np.isfinite(logits).all():
        _note("some logits are not finite", split)
        return Measured(metrics)
    details = (
        multilabel_metrics(dataset.labels, logits, classes)
        if dataset.several
        # As they are kept, so that all can be computed again: a probability beside the edge of a bin changes the ECE.
        else detailed_metrics(
            dataset.labels, as_half(logits).astype(np.float32), classes, sigmoid=experiment.loss_name == "binary"
        )
    )
    # Of a class without images the evaluator says 0, where nothing is defined.
    metrics = {**details, **metrics, **{key: details[key] for key in ("per_class", "ece") if key in details}}
    return Measured(metrics, as_arrays(split, dataset.names, dataset.labels, logits))


def measure_logits(split: str, dataset: Dataset, logits: np.ndarray) -> Measured:
    """Measures logits [n, C] of a split of one label an image, as `measure` does those of a network."""
    mask = jnp.ones(len(dataset), jnp.float32)
    accumulators = jax.device_get(batch_accumulators(jnp.asarray(logits), jnp.asarray(dataset.labels), mask))
    details = detailed_metrics(dataset.labels, logits, dataset.classes)
    metrics = {**details, **compute_metrics(accumulators, dataset.classes), "per_class": details["per_class"]}
    return Measured(metrics, as_arrays(split, dataset.names, dataset.labels, logits))


def can_keep(dataset: Dataset, classes: Sequence[str]) -> bool:
    """Tells whether the logits of a data set are few enough to be kept."""
    return len(dataset) * len(classes) <= _MAX_LOGITS


def write_predictions(workdir: Path, classes: Sequence[str], *measured: Measured) -> None:
    """Writes predictions.npz: the arrays of each split, and the names of the classes."""
    arrays = {key: array for each in measured for key, array in each.arrays.items()}
    path = workdir / "predictions.npz"
    if not arrays:
        if processes.is_main():
            path.unlink(missing_ok=True)  # Those of an evaluation before are of other results.
    else:
        files.write_arrays(path, {"classes": np.asarray(classes), **arrays})


def _computed(experiment: Experiment, accumulators: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return compute_metrics(accumulators, experiment.model.classes, always_top5=experiment.earlier)


def _note(why: str, split: str) -> None:
    print(f"note      {why}: {split} has no predictions in predictions.npz, and only the metrics that need none")
