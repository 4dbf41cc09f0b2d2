"""What the steps of a run read: images, or the features that its frozen prefix makes of them."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import data
from jaxtl.data.loader import Batch
from jaxtl.errors import UserError
from jaxtl.evaluate.evaluator import Evaluator, compile_evaluator
from jaxtl.experiment import options
from jaxtl.experiment.backbone import Backbone, make_backbone, stored_features
from jaxtl.experiment.broken_images import broken_images
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.feature_decision import Decision, Features, Room, decide
from jaxtl.experiment.steps import dummy_of
from jaxtl.feature_cache import features, store
from jaxtl.finetune.stages import Stage
from jaxtl.parallel import processes

# Bytes of features to validate on that stay on the devices: those of a head alone, whose batches take longer to get
# there than to be measured. Those of blocks are large, and their blocks slower in a loop over batches on a CPU.
_RESIDENT = 2**24


@dataclass(frozen=True)
class Inputs:
    """What the steps read.

    Attributes:
      model: what the steps apply: the module, or the part of it that follows the frozen prefix.
      cached: whether "image" holds features; images are normalised by the step, features are not.
      dummy: an empty batch of this host.
      batches: step -> this host's batches from that step on, without end.
      compile_evaluator: variables on the devices -> what measures such variables on a data set.
      kept: group -> the features of train and val that it gave, [N, ...] each, where those are what is kept.
    """

    model: Any
    cached: bool
    dummy: Mapping[str, np.ndarray]
    batches: Callable[[int], Iterator[Batch]]
    compile_evaluator: Callable[[Any], Evaluator]
    kept: Callable[[str], tuple[np.ndarray, np.ndarray] | None] = lambda group: None


def load_into_memory(experiment: Experiment) -> Experiment:
    """Decodes what fits into memory, which finds all broken images before the first step.

    Of several processes each looks at what it reads in one epoch, so that together they look at everything.

    Raises:
      UserError: images are broken.
    """
    config, splits = experiment.config, experiment.splits
    budget = config.data.cache_gib * 2**30
    whole = len(splits.train) + len(splits.val) + (len(splits.test) if splits.test else 0)
    hosts = options.shard()
    broken: list[str] = []

    def load(split: data.Dataset, batch_size: int, seed: int | None = None, min_side: int = 0) -> data.Dataset:
        own = data.own_rows(len(split), batch_size=batch_size, seed=seed, shard=hosts) if hosts[1] > 1 else None
        try:
            return data.preload(
                split,
                budget_bytes=int(budget * len(split) / whole),
                min_side=min_side,
                workers=config.data.workers,
                own=own,
            )
        except data.BrokenImages as error:
            broken.extend(error.problems.values())
            return split

    loaded: list[data.Splits] = []

    def load_all() -> None:
        evaluated = functools.partial(load, batch_size=options.eval_batch_size(config))
        test = evaluated(splits.test) if splits.test else None
        min_side = options.augmentation(config).min_side(experiment.model.pixels)
        # With a sampling no epoch shows each image once: the hosts share them out in order.
        seed = None if splits.train.sampling else config.train.seed
        train = load(splits.train, config.train.batch_size, seed, min_side)
        loaded.append(replace(splits, train=train, val=evaluated(splits.val), test=test))
        if broken:
            raise broken_images(broken, whole)

    processes.on_all_processes(load_all)
    return replace(experiment, splits=loaded[0])


def make_inputs(
    experiment: Experiment, workdir: Path, *, stages: Sequence[Stage], epochs: float, began: bool | None = None
) -> Inputs:
    """Decides whether the run reads images or features, says so, and in the second case computes them.

    Args:
      experiment: its splits train and val are computed at once, another data set when it is evaluated.
      workdir: of the run.
      stages: whose steps read; what is frozen in all of them can be computed once.
      epochs: length of the run.
      began: whether the run began with cached features; it goes on as it began. None for a new one.

    Raises:
      UserError: finetune.cache_features is "on", but there is nothing to cache or no room for it.
    """
    f, names = experiment.config.finetune, [name for name, _ in experiment.model.module.groups()]
    mode = f.cache_features if began is None else "on" if began else "off"
    labels = [stage.labels for stage in stages]
    stop, start = features.find_cut(experiment.model.module.groups(), experiment.plan.assignment, labels)
    backbone = make_backbone(experiment, stop) if stop else None
    decision = _decide(experiment, workdir, backbone, mode=mode, stop=stop, epochs=epochs)
    if began and not decision.cache:
        raise UserError(f"the run began with cached features, but {decision.reason}: make room for them again.")
    if f.cache_features == "on" and not decision.cache:
        raise UserError(f'finetune.cache_features is "on", but {decision.reason}: change that, or give "auto".')
    if backbone is None or not decision.cache:
        if stop and mode != "off":
            print(f"the groups {names[0]} to {stop} are frozen, but computed in every step: {decision.reason}")
        return read_images(experiment)
    views = "" if f.cache_views == 1 else f" in {f.cache_views} views"
    print(f"the groups {names[0]} to {stop} are frozen and computed once for each image{views}: {decision.reason}")
    begun = time.perf_counter()
    stored = stored_features(experiment, workdir, backbone, in_memory=decision.where == "memory")
    images = len(experiment.splits.train) + len(experiment.splits.val)
    print(f"features of {images:,} images: {time.perf_counter() - begun:.1f} s")
    return _read_features(experiment, backbone, stored, (stop, start))


def _decide(
    experiment: Experiment, workdir: Path, backbone: Backbone | None, *, mode: str, stop: str, epochs: float
) -> Decision:
    """Decides whether the features of this run are cached, as all its processes do."""
    config, splits = experiment.config, experiment.splits
    f = config.finetune
    rows = f.cache_views * len(splits.train) + len(splits.val)
    # Mixing blends images: blending their features instead would be something else.
    blended = bool(config.augment.mixup or config.augment.cutmix)
    free = store.free_bytes(Path(f.cache_dir or workdir).absolute())
    there = Features(
        stop=stop,
        exact=(options.augmentation(config).is_plain or f.cache_views > 1) and not blended,
        blended=blended,
        passes=epochs / f.cache_views,
        size=rows * backbone.bytes_per_image if backbone else 0,
    )
    room = Room(
        memory=int(config.data.cache_gib * 2**30),
        # Of the host that has least: all decide alike.
        disk=min(map(int, processes.gather(str(free)))),
        on_disk=bool(f.cache_dir),
    )
    return decide(mode, there, room)


def is_cached_plain(experiment: Experiment) -> bool:
    """Tells whether features are kept of each image as evaluation sees it, whatever the augmentation."""
    f, plan = experiment.config.finetune, experiment.plan
    if f.cache_features != "on" or f.cache_views > 1:
        return False
    labels = [stage.labels for stage in plan.stages]
    return bool(features.find_cut(experiment.model.module.groups(), plan.assignment, labels)[0])


def read_images(experiment: Experiment) -> Inputs:
    """Returns inputs that decode and augment images in every epoch."""
    config, model = experiment.config, experiment.model
    augmentation = options.augmentation(config)

    def batches(start_step: int) -> Iterator[Batch]:
        return data.train_batches(
            experiment.splits.train,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            view=data.RandomView(model.pixels, augmentation),
            start_step=start_step,
            shard=options.shard(),
            min_side=augmentation.min_side(model.pixels),
            reading=options.reading(config),
        )

    evaluator = functools.partial(compile_image_evaluator, experiment)
    return Inputs(model.module, False, dummy_of(experiment, config.train.batch_size), batches, evaluator)


def compile_image_evaluator(experiment: Experiment, variables: Any) -> Evaluator:
    """Compiles the evaluation of the whole model on images, for variables on the devices."""
    config, model = experiment.config, experiment.model
    return compile_evaluator(
        model.module,
        variables,
        experiment.partitioner,
        batches=options.evaluation_batches(config, model.pixels),
        dummy=dummy_of(experiment, options.eval_batch_size(config)),
        loss_fn=experiment.eval_loss,
        prepare=model.normalize,
    )


def _read_features(
    experiment: Experiment, backbone: Backbone, stored: features.FeatureRows, cut: tuple[str, str]
) -> Inputs:
    config, splits, (stop, start) = experiment.config, experiment.splits, cut
    suffix: Any = features.Suffix(experiment.model.module, start)
    views = config.finetune.cache_views

    def batches(start_step: int) -> Iterator[Batch]:
        return features.train_batches(
            stored,
            splits.train,
            views=views,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            start_step=start_step,
            shard=options.shard(),
        )

    def evaluation_batches(dataset: data.Dataset) -> Iterator[Batch]:
        if dataset is not splits.val:
            return backbone.batches(dataset)
        first, size = views * len(splits.train), backbone.batch_size
        return features.eval_batches(stored, dataset.labels, batch_size=size, first=first, shard=options.shard())

    def dummy(batch_size: int) -> dict[str, np.ndarray]:
        images = dummy_of(experiment, batch_size)
        return {**images, "image": np.zeros((len(images["label"]), *backbone.shape), backbone.dtype)}

    def evaluator(variables: Any) -> Evaluator:
        small = len(splits.val) * backbone.bytes_per_image <= _RESIDENT
        return compile_evaluator(
            suffix,
            variables,
            experiment.partitioner,
            batches=evaluation_batches,
            dummy=dummy(backbone.batch_size),
            loss_fn=experiment.eval_loss,
            resident=splits.val if small else None,
        )

    def kept(group: str) -> tuple[np.ndarray, np.ndarray] | None:
        count, first = len(splits.train), views * len(splits.train)
        rows = np.arange(first + len(splits.val))
        # Of several views none is as evaluation sees an image.
        return (stored[rows[:count]], stored[rows[first:]]) if group == stop and views == 1 else None

    return Inputs(suffix, True, dummy(config.train.batch_size), batches, evaluator, kept)
