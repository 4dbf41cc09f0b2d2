"""What the steps of a run read: images, or the features that its frozen prefix makes of them."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.data.loader import Batch
from jaxtl.errors import UserError
from jaxtl.evaluate.accumulate import accumulate_batches, eval_step
from jaxtl.experiment import setup
from jaxtl.experiment.backbone import Prefix, min_side, shard, stored_features, train_view
from jaxtl.feature_cache import features, store
from jaxtl.parallel import processes
from jaxtl.parallel.partitioner import Partitioner

# (variables on the devices, data set, stop=never) -> accumulators
Evaluate = Callable[..., dict[str, np.ndarray]]


@dataclass(frozen=True)
class Inputs:
    """What the steps read.

    Attributes:
      model: what the steps apply: the module, or the part of it that follows the frozen prefix.
      cached: whether "image" holds features; images are normalised by the step, features are not.
      dummy: an empty batch of this host.
      batches: step -> this host's batches from that step on, without end.
      compile_evaluation: variables -> (variables on the devices, data set, stop=never) -> accumulators.
    """

    model: Any
    cached: bool
    dummy: Mapping[str, np.ndarray]
    batches: Callable[[int], Iterator[Batch]]
    compile_evaluation: Callable[[Any], Evaluate]


def into_memory(config: ConfigDict, splits: data.Splits, min_side: int) -> data.Splits:
    """Decodes what fits into memory, which finds broken images before the first step.

    Of several processes each looks at what it reads in one epoch, so that together they look at everything.
    """
    budget = config.data.cache_gib * 2**30
    whole = len(splits.train) + len(splits.val) + (len(splits.test) if splits.test else 0)
    sizes = {"train": config.train.batch_size, "eval": config.eval.batch_size or config.train.batch_size}

    def load(split: data.Dataset, kind: str = "eval") -> data.Dataset:
        seed = config.train.seed if kind == "train" else None
        hosts = shard()
        own = data.own_rows(len(split), batch_size=sizes[kind], seed=seed, shard=hosts) if hosts[1] > 1 else None
        return data.preload(
            split,
            budget_bytes=int(budget * len(split) / whole),
            min_side=min_side if kind == "train" else 0,
            workers=config.data.workers,
            own=own,
        )

    loaded: list[data.Splits] = []

    def load_all() -> None:
        test = load(splits.test) if splits.test else None
        loaded.append(data.Splits(load(splits.train, "train"), load(splits.val), test, splits.notes))

    processes.on_all_processes(load_all)
    return loaded[0]


def make_inputs(
    config: ConfigDict,
    workdir: Path,
    model: setup.Model,
    splits: data.Splits,
    partitioner: Partitioner,
    *,
    variables: Mapping[str, Any],
    assignment: Mapping[str, str],
    labels: Sequence[Mapping[str, str]],
    epochs: float,
    began: bool | None = None,
) -> Inputs:
    """Decides whether the run reads images or features, says so, and in the second case computes them.

    Args:
      config: the config.
      workdir: of the run.
      model: the model.
      splits: train and val are computed at once, another data set when it is evaluated.
      partitioner: of the steps.
      variables: of the whole model.
      assignment: path of each parameter -> its group.
      labels: path -> group or "frozen", for each stage of the run.
      epochs: length of the run.
      began: whether the run began with cached features; it goes on as it began. None for a new one.

    Raises:
      UserError: finetune.cache_features is "on", but there is nothing to cache or no room for it.
    """
    f = config.finetune
    mode = f.cache_features if began is None else "on" if began else "off"
    stop, start = features.find_cut(model.module.groups(), assignment, labels)
    prefix = (
        Prefix.make(config, model, variables, stop, config.eval.batch_size or config.train.batch_size) if stop else None
    )
    decision = _decide(config, workdir, splits, prefix, mode=mode, stop=stop, epochs=epochs)
    if began and not decision.cache:
        raise UserError(f"the run began with cached features, but {decision.reason}: make room for them again.")
    if f.cache_features == "on" and not decision.cache:
        raise UserError(f'finetune.cache_features is "on", but {decision.reason}: change that, or give "auto".')
    if prefix is None or not decision.cache:
        if stop and mode != "off":
            print(f"{_range(model, stop)} are frozen, but computed in every step: {decision.reason}")
        return _images(config, model, splits, partitioner)
    views = "" if f.cache_views == 1 else f" in {f.cache_views} views"
    print(f"{_range(model, stop)} are frozen and computed once for each image{views}: {decision.reason}")
    begun = time.perf_counter()
    stored = stored_features(config, workdir, model, splits, prefix, in_memory=decision.where == "memory")
    print(f"features of {len(splits.train) + len(splits.val):,} images: {time.perf_counter() - begun:.1f} s")
    return _features(config, model, splits, partitioner, prefix, stored, start)


def _decide(
    config: ConfigDict,
    workdir: Path,
    splits: data.Splits,
    prefix: Prefix | None,
    *,
    mode: str,
    stop: str,
    epochs: float,
) -> features.Decision:
    """Decides whether the features of this run are cached, as all its processes do; see `features.decide`."""
    f = config.finetune
    rows = f.cache_views * len(splits.train) + len(splits.val)
    # Mixing blends images: blending their features instead would be something else.
    blended = bool(config.augment.mixup or config.augment.cutmix)
    free = store.free_bytes(Path(f.cache_dir or workdir).absolute())
    return features.decide(
        mode,
        stop=stop,
        exact=(_is_plain(config) or f.cache_views > 1) and not blended,
        passes=epochs / f.cache_views,
        needed=rows * prefix.bytes_per_image if prefix else 0,
        memory=int(config.data.cache_gib * 2**30),
        # Of the host that has least: all decide alike.
        disk=min(map(int, processes.gather(str(free)))),
        on_disk=bool(f.cache_dir),
        blended=blended,
    )


def _is_plain(config: ConfigDict) -> bool:
    augment = config.augment
    return augment.crop == "none" and not augment.flip and not augment.color_jitter


def _range(model: setup.Model, stop: str) -> str:
    return f"the groups {model.module.groups()[0][0]} to {stop}"


def _images(config: ConfigDict, model: setup.Model, splits: data.Splits, partitioner: Partitioner) -> Inputs:
    def batches(start_step: int) -> Iterator[Batch]:
        return data.train_batches(
            splits.train,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            view=train_view(config, model),
            start_step=start_step,
            shard=shard(),
            workers=config.data.workers,
            reader=config.data.reader,
            min_side=min_side(config, model),
        )

    size = config.eval.batch_size or config.train.batch_size
    loss = setup.evaluation_loss(config, len(model.classes))
    return Inputs(
        model=model.module,
        cached=False,
        dummy=setup.dummy_batch(model.pixels.size, config.train.batch_size),
        batches=batches,
        compile_evaluation=lambda variables: setup.compile_evaluation(
            model, variables, partitioner, size, loss, config.data.workers, config.data.reader
        ),
    )


def _features(
    config: ConfigDict,
    model: setup.Model,
    splits: data.Splits,
    partitioner: Partitioner,
    prefix: Prefix,
    stored: features.FeatureRows,
    start: str,
) -> Inputs:
    suffix: Any = features.Suffix(model.module, start)
    views = config.finetune.cache_views

    def batches(start_step: int) -> Iterator[Batch]:
        return features.train_batches(
            stored,
            splits.train.labels,
            views=views,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            start_step=start_step,
            shard=shard(),
        )

    def evaluation_batches(dataset: data.Dataset) -> Iterator[Batch]:
        if dataset is not splits.val:
            return prefix.batches(dataset)
        first = views * len(splits.train)
        return features.eval_batches(stored, dataset.labels, batch_size=prefix.batch_size, first=first, shard=shard())

    def dummy(batch_size: int) -> dict[str, np.ndarray]:
        images = setup.dummy_batch(model.pixels.size, batch_size)
        return {**images, "image": np.zeros((len(images["label"]), *prefix.shape), prefix.dtype)}

    def compile_evaluation(variables: Any) -> Evaluate:
        loss = setup.evaluation_loss(config, len(model.classes))
        step = functools.partial(eval_step, model=suffix, loss_fn=loss)
        compiled = partitioner.compile(step, variables, partitioner.shard_batch(dummy(prefix.batch_size)))

        def evaluate(variables: Any, dataset: data.Dataset, stop=lambda: False) -> dict[str, np.ndarray]:
            return accumulate_batches(
                lambda *arguments: partitioner.gather(compiled(*arguments)),
                variables,
                map(partitioner.shard_batch, evaluation_batches(dataset)),
                stop=stop,
            )

        return evaluate

    return Inputs(suffix, True, dummy(config.train.batch_size), batches, compile_evaluation)
