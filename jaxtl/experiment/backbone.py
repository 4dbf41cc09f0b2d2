"""The frozen prefix of a run: compiled once, applied once to each image, its results kept in memory or on disk."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.data.loader import Batch, EvalView, TrainView
from jaxtl.data.normalize import normalize
from jaxtl.experiment import setup
from jaxtl.feature_cache import features, store


@dataclass(frozen=True)
class Prefix:
    """The frozen prefix, compiled: uint8 images of one batch size -> features, whole on each device."""

    forward: Callable[[Any], jax.Array]
    put: Callable[[Any], Any]
    variables: Any
    facts: Mapping[str, Any]
    batch_size: int
    shape: tuple[int, ...]
    dtype: Any
    view: EvalView
    workers: int = 0
    reader: data.Reader = "auto"

    @property
    def bytes_per_image(self) -> int:
        """The size of the features of one image in one view."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @classmethod
    def make(
        cls, config: ConfigDict, model: setup.Model, variables: Mapping[str, Any], stop: str, batch_size: int
    ) -> "Prefix":
        """Takes the groups up to `stop`; nothing is compiled before the first batch."""
        # jit whatever the steps use: each host needs all rows, since it trains on any of them.
        partitioner = setup.partitioner_for(config, "jit")
        variables = features.prefix_variables(variables, model.module.groups(), stop)

        def forward(variables, images):
            return model.module.apply(variables, normalize(images, model.pixels), train=False, stop=stop)

        @functools.cache
        def compiled():
            images = partitioner.shard_batch(setup.dummy_batch(model.pixels.size, batch_size))["image"]
            on_devices = partitioner.shard_state(variables)
            return functools.partial(partitioner.compile(forward, on_devices, images), on_devices)

        side = model.pixels.size
        out = jax.eval_shape(forward, variables, jax.ShapeDtypeStruct((batch_size, side, side, 3), np.uint8))
        facts = {**model.facts(), "classes": None, "num_classes": 0, "stop": stop, "dtype": str(out.dtype)}
        return cls(
            forward=lambda images: compiled()(images),
            put=partitioner.shard_batch,
            variables=variables,
            facts=facts,
            batch_size=batch_size,
            shape=out.shape[1:],
            dtype=out.dtype,
            view=functools.partial(data.eval_view, pixels=model.pixels),
            workers=config.data.workers,
            reader=config.data.reader,
        )

    def image_batches(self, dataset: data.Dataset) -> Iterator[Batch]:
        """Yields the images as evaluation sees them, in batches of the prefix's size."""
        return data.eval_batches(
            dataset,
            batch_size=self.batch_size,
            view=self.view,
            shard=shard(),
            workers=self.workers,
            reader=self.reader,
        )

    def batches(self, dataset: data.Dataset) -> Iterator[Batch]:
        """Yields what the part after the prefix evaluates on, without keeping it."""
        host, hosts = shard()
        rows = self.batch_size // hosts
        for batch in self.image_batches(dataset):
            whole = np.asarray(self.forward(self.put({"image": batch["image"]})["image"]))
            yield {**batch, "image": whole[host * rows : (host + 1) * rows]}


def stored_features(
    config: ConfigDict, workdir: Path, model: setup.Model, splits: data.Splits, prefix: Prefix, *, in_memory: bool
) -> features.FeatureRows:
    """Computes the features of all views of train and then those of val, or finds them on disk."""
    views = config.finetune.cache_views
    count = views * len(splits.train) + len(splits.val)

    def fill(write: Callable[[int, np.ndarray], None]) -> None:
        row = 0
        for epoch in range(views):
            drawn = data.view_batches(
                splits.train,
                batch_size=prefix.batch_size,
                seed=config.train.seed,
                epoch=epoch,
                # One view is the plain one: a single random crop would show less of each image, for ever.
                view=train_view(config, model) if views > 1 else data.FixedView(prefix.view),
                shard=shard(),
                workers=config.data.workers,
                reader=config.data.reader,
                min_side=min_side(config, model),
            )
            row = features.compute(prefix.forward, drawn, write, count=len(splits.train), put=prefix.put, first=row)
        images = prefix.image_batches(splits.val)
        features.compute(prefix.forward, images, write, count=len(splits.val), put=prefix.put, first=row)

    if in_memory:
        array = np.empty((count, *prefix.shape), prefix.dtype)

        def write(row: int, values: np.ndarray) -> None:
            array[row : row + len(values)] = values

        fill(write)
        return array
    drawn = {"augment": config.augment.to_dict(), "seed": config.train.seed} if views > 1 else {}
    # Each number of hosts has files of its own, for none to find parts of another's beside its own.
    facts = {**prefix.facts, "hosts": shard()[1], "views": views, "min_side": min_side(config, model), **drawn}
    own = functools.partial(_own, prefix.batch_size)
    key = store.make_key(prefix.variables, facts, [splits.train, splits.val], own)
    folder = Path(config.finetune.cache_dir or workdir / "features").absolute() / key
    found = store.load(folder)
    if found is not None and len(found) == count:
        print(f"the features are in {folder} already")
        return found
    return store.build(
        folder,
        count=count,
        shape=prefix.shape,
        dtype=prefix.dtype,
        fill=fill,
        shard=shard(),
        wait=lambda: multihost_utils.sync_global_devices("features") if jax.process_count() > 1 else None,
    )


def _own(batch_size: int, dataset: data.Dataset) -> np.ndarray:
    return data.own_rows(len(dataset), batch_size=batch_size, shard=shard())


def min_side(config: ConfigDict, model: setup.Model) -> int:
    """Returns the shorter side down to which training may decode, in pixels."""
    # A large photograph is decoded in a third of the time if it need not be whole. The smallest box that a view may
    # take still has a pixel for each of the view's. Evaluation always decodes in full.
    smallest = config.augment.scale[0] if config.augment.crop == "random_resized" else 1.0
    return max(2 * model.pixels.resize, 2 * config.augment.resize, math.ceil(model.pixels.size / math.sqrt(smallest)))


def shard() -> tuple[int, int]:
    """Returns (this host, number of hosts)."""
    return jax.process_index(), jax.process_count()


def train_view(config: ConfigDict, model: setup.Model) -> TrainView:
    """Returns the random view that the config describes."""
    augment = config.augment
    view = functools.partial(
        data.train_view,
        pixels=model.pixels,
        crop=augment.crop,
        scale=tuple(augment.scale),
        ratio=tuple(augment.ratio),
        resize=augment.resize,
        pad=augment.pad,
        flip=augment.flip,
        color_jitter=augment.color_jitter,
    )
    return data.RandomView(view)
