"""The outputs of every group of a model, for probes of how far frozen features carry."""

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.data.normalize import normalize
from jaxtl.evaluate.probe import Split, compile_linear
from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.model import Model
from jaxtl.experiment.steps import dummy_batch
from jaxtl.parallel.background import in_background
from jaxtl.parallel.fetch import one_behind


def group_outputs(
    variables: Mapping[str, Any], images: jax.Array, *, model: Model, names: list[str], chosen: list[str]
) -> dict[str, jax.Array]:
    """Returns the pooled outputs of the chosen groups, group -> [B, D], of images uint8 [B, S, S, C]."""
    outputs = {}
    x: Any = normalize(images, model.pixels)
    start: str | None = names[0]
    for name, following in itertools.pairwise([*names, None]):
        if name in chosen:
            x = model.module.apply(variables, x, train=False, start=start, stop=name)
            # What is not pooled yet, tokens [B, N, D] or a map [B, h, w, C], is averaged over its places.
            outputs[name] = x.reshape(len(x), -1, x.shape[-1]).astype(np.float32).mean(1)
            start = following
    return outputs


def unweighed_notes(config: ConfigDict, splits: data.Splits) -> list[str]:
    """Returns a line on what weighs classes or images in training, and does not in a probe; none where nothing does."""
    names = [f"train.{key}" for key in ("class_weights", "sampling") if config.train[key]]
    names += ["the column weight"] if splits.train.weights is not None else []
    counts = "counts" if len(names) == 1 else "count"
    return [f"note      probes weigh all images alike: {', '.join(names)} {counts} in training only"] if names else []


def begin_compiling(
    forward: Callable[..., Any], variables: Any, model: Model, count: int, num_classes: int
) -> Future[None]:
    """Starts compiling the linear probe of `count` examples, for each width of features."""
    image = jax.ShapeDtypeStruct((1, model.pixels.size, model.pixels.size, 3), np.uint8)
    widths = sorted({leaf.shape[-1] for leaf in jax.eval_shape(forward, variables, image).values()})

    def compile_all() -> None:
        for width in widths:
            compile_linear(count, width, num_classes)

    return in_background(compile_all)


def probe_splits(experiment: Experiment, forward: Callable[..., dict[str, jax.Array]]) -> dict[str, tuple[Split, ...]]:
    """Passes over all images once; returns group -> its outputs on train, val and test.

    Args:
      experiment: built for "features": each host has all rows.
      forward: (variables, images uint8 [B, S, S, C]) -> group -> features [B, D].
    """
    config, model, partitioner = experiment.config, experiment.model, experiment.partitioner
    batch_size = options.eval_batch_size(config)
    on_devices = partitioner.shard_state(experiment.variables)
    dummy = partitioner.shard_batch(dummy_batch(model.pixels.size, batch_size))["image"]
    compiled = partitioner.compile(forward, on_devices, dummy)
    batches = options.evaluation_batches(config, model.pixels)
    splits: dict[str, list[Split]] = {}
    for dataset in (experiment.splits.train, experiment.splits.val, experiment.splits.test):
        assert dataset is not None
        results = (compiled(on_devices, partitioner.shard_batch(batch)["image"]) for batch in batches(dataset))
        found = list(one_behind(results))
        for name in found[0]:
            rows = np.concatenate([np.asarray(outputs[name]) for outputs in found])[: len(dataset)]
            splits.setdefault(name, []).append(Split(rows, dataset.labels))
    return {name: tuple(splits[name]) for name, _ in model.module.groups() if name in splits}
