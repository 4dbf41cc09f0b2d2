"""How good weights are on val, with BatchNorm's statistics computed anew where theirs do not fit."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax

from jaxtl.evaluate.evaluator import Evaluator
from jaxtl.evaluate.metrics import compute_metrics, summary
from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.input_pipeline import compile_image_evaluator
from jaxtl.train.batch_statistics import batch_statistics, with_mean_statistics
from jaxtl.train.loop import score_of

# Images that BatchNorm's statistics are computed of, at most: their means hardly move any more after so many.
_STATISTICS_IMAGES = 2**14


class Scorer:
    """Measures weights on val, with BatchNorm's statistics computed anew where they would not fit."""

    def __init__(self, experiment: Experiment):
        """Compiles the evaluation of an experiment whose images are at hand."""
        self.experiment = experiment
        shard = experiment.partitioner.shard_state
        self.evaluator: Evaluator = compile_image_evaluator(experiment, shard(experiment.variables))
        self.images = 0
        self._steps: dict[frozenset[str], Any] = {}

    @property
    def monitor(self) -> str:
        """What is compared; the loss in place of the last step, and of a ranking of labels, which costs more."""
        monitor = str(self.experiment.config.train.monitor)
        return "loss" if monitor in ("last", "map") else monitor

    def metrics(self, variables: Mapping[str, Any]) -> dict[str, float]:
        """Returns the metrics on val."""
        accumulators = self.evaluator(self.experiment.partitioner.shard_state(variables), self.experiment.splits.val)
        return summary(compute_metrics(accumulators, self.experiment.model.classes, always_top5=True))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Returns what is compared of metrics, higher is better."""
        return score_of(metrics, self.monitor, 0)

    def with_statistics(self, variables: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any]:
        """Returns weights with the statistics of those modules from one pass over images that train, unaugmented."""
        chosen = frozenset(modules)
        if not chosen:
            return dict(variables)
        experiment, config = self.experiment, self.experiment.config
        size, dataset = config.train.batch_size, experiment.splits.train
        count = max(min(len(dataset), _STATISTICS_IMAGES) // size, 1)
        batches = options.plain_train_batches(config, experiment.model.pixels, dataset, size)
        step = self._steps.setdefault(chosen, jax.jit(partial(self._statistics, modules=chosen)))
        on_devices = experiment.partitioner.shard_state(variables)
        found = (
            jax.device_get(step(on_devices, experiment.partitioner.shard_batch(next(batches)))) for _ in range(count)
        )
        try:
            renewed = with_mean_statistics(variables, found)
        finally:
            batches.close()
        self.images = count * size
        return renewed

    def _statistics(self, variables: Any, batch: Mapping[str, jax.Array], modules: frozenset[str]) -> dict[str, Any]:
        model = self.experiment.model
        return batch_statistics(variables, model.normalize(batch)["image"], model=model.module, modules=modules)
