"""From the sections of a config to the options that the folders above take: each key is read here, once."""

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl.compress.pruning import Pruning
from jaxtl.data import Augmentation, Dataset, FixedView, Reading, eval_batches, eval_view, train_batches
from jaxtl.data.augment import presets
from jaxtl.data.loader import Batch
from jaxtl.parallel.partitioner import Partitioner, make_partitioner
from jaxtl.preprocessing import Pixels
from jaxtl.train.optimizer import OptimizerOptions, Schedule
from jaxtl.train.step import StepOptions


def augmentation(config: ConfigDict) -> Augmentation:
    """Returns what the views of training images differ in."""
    values = presets.with_preset(config.augment.preset, _augment_values(config))
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Augmentation(**plain)


def write_out_preset(config: ConfigDict) -> ConfigDict:
    """Returns the config with the values of augment.preset in its place: a run keeps them, not the name alone."""
    if not config.augment.preset or presets.is_auto(config.augment.preset):
        return config
    written_out = copy.deepcopy(config)
    written_out.augment.update(presets.with_preset(config.augment.preset, _augment_values(config)), preset="")
    return written_out


def preset_in_words(given: ConfigDict, config: ConfigDict) -> str:
    """Returns what augment.preset sets, in one line; "" without one.

    Args:
      given: the config as it was given.
      config: the same, or as a run has it, its preset written out when it began.
    """
    preset = given.augment.preset
    if not preset or presets.is_auto(preset):
        return ""
    values, other = _augment_values(config), augmentation(given) != augmentation(config)
    text = presets.in_words(preset, _augment_values(given), presets.with_preset(config.augment.preset, values))
    return f"{text}; this version would set others, but the run goes on as it began" if other else text


def _augment_values(config: ConfigDict) -> dict[str, Any]:
    return {name: config.augment[name] for name in presets.DEFAULTS}


def reading(config: ConfigDict) -> Reading:
    """Returns who reads, decodes and augments."""
    return Reading(workers=config.data.workers, reader=config.data.reader)


def optimizer(values: Mapping[str, Any], learning_rate: Schedule) -> OptimizerOptions:
    """Returns the options of an optimizer at a rate, from the section `optimizer` or a rule over it."""
    names = [field.name for field in fields(OptimizerOptions) if field.name != "learning_rate"]
    return OptimizerOptions(**{name: values[name] for name in names}, learning_rate=learning_rate)


def step(config: ConfigDict, ema_since: Mapping[str, int]) -> StepOptions:
    """Returns the options of the step; `ema_since` is path -> the step at which a parameter began to train."""
    return StepOptions(
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.train.accumulate,
        sam_rho=config.optimizer.sam_rho,
        skip_nonfinite=config.train.skip_nonfinite,
        ema_decay=config.train.ema_decay,
        ema_since=ema_since,
    )


def pruning(config: ConfigDict, paths: Sequence[str], groups: Mapping[str, str], total_steps: int) -> Pruning | None:
    """Returns what becomes zero of the kernels at `paths`, and when, in a run of so many steps; None for nothing."""
    given = config.prune
    if not given.sparsity:
        return None
    return Pruning(
        paths=paths,
        sparsity=given.sparsity,
        pattern=given.pattern,
        groups=dict(groups) if given.scope == "group" else {},
        # A ramp of a share too small for a step takes one all the same.
        end=max(round(given.ramp * total_steps), 1) if given.ramp else 0,
        every=given.every,
    )


def partitioner(config: ConfigDict, name: str = "") -> Partitioner:
    """Returns the partitioner that the config describes, or that of its mesh under another name."""
    return make_partitioner(
        name or config.train.parallel, mesh=dict(config.train.mesh), rules=dict(config.train.sharding)
    )


def eval_batch_size(config: ConfigDict) -> int:
    """Returns the rows of a global batch in evaluation."""
    return config.eval.batch_size or config.train.batch_size


def evaluation_batches(config: ConfigDict, pixels: Pixels) -> Callable[[Dataset], Iterator[Batch]]:
    """Returns data set -> this host's rows of its batches, images as evaluation sees them."""
    return partial(
        eval_batches,
        batch_size=eval_batch_size(config),
        view=partial(eval_view, pixels=pixels),
        shard=shard(),
        reading=reading(config),
    )


def plain_train_batches(
    config: ConfigDict, pixels: Pixels, dataset: Dataset, batch_size: int
) -> Generator[Batch, None, None]:
    """Returns this host's rows of batches of images that train, without end, as evaluation sees them."""
    return train_batches(
        dataset,
        batch_size=batch_size,
        seed=config.train.seed,
        view=FixedView(pixels),
        shard=shard(),
        reading=reading(config),
    )


def shard() -> tuple[int, int]:
    """Returns (this host, number of hosts)."""
    return jax.process_index(), jax.process_count()
