"""The frozen prefix of a run: compiled once, applied once to each image, its results kept in memory or on disk."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtl import data
from jaxtl.data.loader import Batch
from jaxtl.data.normalize import normalize
from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.steps import dummy_batch
from jaxtl.feature_cache import features, store
from jaxtl.models import with_fields


@dataclass(frozen=True)
class Backbone:
    """The frozen prefix, compiled: uint8 images of one batch size -> features, whole on each device."""

    forward: Callable[[Any], jax.Array]
    shard_batch: Callable[[Any], Any]
    variables: Any
    facts: Mapping[str, Any]
    batch_size: int
    shape: tuple[int, ...]
    dtype: Any
    image_batches: Callable[[data.Dataset], Iterator[Batch]]

    @property
    def bytes_per_image(self) -> int:
        """The size of the features of one image in one view."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def batches(self, dataset: data.Dataset) -> Iterator[Batch]:
        """Yields what the part after the backbone evaluates on, without keeping it."""
        host, hosts = options.shard()
        rows = self.batch_size // hosts
        for batch in self.image_batches(dataset):
            whole = np.asarray(self.forward(self.shard_batch({"image": batch["image"]})["image"]))
            yield {**batch, "image": whole[host * rows : (host + 1) * rows]}


def make_backbone(experiment: Experiment, stop: str) -> Backbone:
    """Takes the groups up to `stop`; nothing is compiled before the first batch."""
    model, batch_size = experiment.model, options.eval_batch_size(experiment.config)
    # jit whatever the steps use: each host needs all rows, since it trains on any of them.
    partitioner = options.partitioner(experiment.config, "jit")
    variables = features.prefix_variables(experiment.variables, model.module.groups(), stop)

    def forward(variables: Any, images: jax.Array) -> Any:
        return model.module.apply(variables, normalize(images, model.pixels), train=False, stop=stop)

    @functools.cache
    def compiled() -> Callable[[Any], jax.Array]:
        images = partitioner.shard_batch(dummy_batch(model.pixels.size, batch_size))["image"]
        on_devices = partitioner.shard_state(variables)
        return functools.partial(partitioner.compile(forward, on_devices, images), on_devices)

    side = model.pixels.size
    # What follows the pooling leaves no trace in features.
    custom = model.module.custom_head
    prefix = with_fields(model.name, head_hidden=(), single_logit=False) if custom else model.name
    out = jax.eval_shape(forward, variables, jax.ShapeDtypeStruct((batch_size, side, side, 3), np.uint8))
    return Backbone(
        forward=lambda images: compiled()(images),
        shard_batch=partitioner.shard_batch,
        variables=variables,
        facts={
            **model.facts(),
            "model": prefix,
            "classes": None,
            "num_classes": 0,
            "stop": stop,
            "dtype": str(out.dtype),
            # A distilled DeiT keeps its two tokens apart for a head of its own, and not for another.
            **({"shape": list(out.shape[1:])} if custom else {}),
        },
        batch_size=batch_size,
        shape=out.shape[1:],
        dtype=out.dtype,
        image_batches=options.evaluation_batches(experiment.config, model.pixels),
    )


def stored_features(
    experiment: Experiment, workdir: Path, backbone: Backbone, *, in_memory: bool
) -> features.FeatureRows:
    """Computes the features of all views of train and then those of val, or finds them on disk."""
    config, splits, model = experiment.config, experiment.splits, experiment.model
    views = config.finetune.cache_views
    count = views * len(splits.train) + len(splits.val)
    augmentation = options.augmentation(config)
    min_side = augmentation.min_side(model.pixels)
    compute = functools.partial(features.compute, backbone.forward, shard_batch=backbone.shard_batch)

    def fill(write: Callable[[int, np.ndarray], None]) -> None:
        row = 0
        for epoch in range(views):
            drawn = data.view_batches(
                splits.train,
                batch_size=backbone.batch_size,
                seed=config.train.seed,
                epoch=epoch,
                # One view is the plain one: a single random crop would show less of each image, for ever.
                view=data.RandomView(model.pixels, augmentation) if views > 1 else data.FixedView(model.pixels),
                shard=options.shard(),
                min_side=min_side,
                reading=options.reading(config),
            )
            row = compute(drawn, write, count=len(splits.train), first=row)
        compute(backbone.image_batches(splits.val), write, count=len(splits.val), first=row)

    if in_memory:
        array = np.empty((count, *backbone.shape), backbone.dtype)

        def write(row: int, values: np.ndarray) -> None:
            array[row : row + len(values)] = values

        fill(write)
        return array
    drawn = {"augment": asdict(augmentation), "seed": config.train.seed} if views > 1 else {}
    # Each number of hosts has files of its own, for none to find parts of another's beside its own.
    facts = {**backbone.facts, "hosts": options.shard()[1], "views": views, "min_side": min_side, **drawn}
    own = functools.partial(_own, backbone.batch_size)
    key = store.make_key(backbone.variables, facts, [splits.train, splits.val], own)
    folder = Path(config.finetune.cache_dir or workdir / "features").absolute() / key
    found = store.load(folder)
    if found is not None and len(found) == count:
        print(f"the features are in {folder} already")
        return found
    return store.build(
        folder,
        count=count,
        shape=backbone.shape,
        dtype=backbone.dtype,
        fill=fill,
        shard=options.shard(),
        wait=lambda: multihost_utils.sync_global_devices("features") if jax.process_count() > 1 else None,
    )


def _own(batch_size: int, dataset: data.Dataset) -> np.ndarray:
    return data.own_rows(len(dataset), batch_size=batch_size, shard=options.shard())
