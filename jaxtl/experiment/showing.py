"""Pictures of what a config trains and evaluates on, from the batches that its run would read."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.data.contact_sheet import contact_sheet
from jaxtl.errors import UserError, writing
from jaxtl.experiment import auto, options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment, build
from jaxtl.experiment.input_pipeline import is_cached_plain, read_images
from jaxtl.experiment.sizes import fit_to_size
from jaxtl.experiment.splits import open_splits, usable
from jaxtl.experiment.steps import mix_images

# Images on the sheets of training and evaluation, and in a row; views of the one image.
_IMAGES, _COLUMNS = 20, 5
_VIEWS, _COLUMNS_OF_VIEWS = 16, 4


def draw_sheets(config: ConfigDict, workdir: Path) -> list[Path]:
    """Draws the first training views, evaluation views, and one image in 16 epochs; returns the paths.

    Weights are opened for what they say of pixels, but no array of them is read.

    Raises:
      UserError: the config is not sound, or data or weights cannot be opened.
    """
    made = files.open_workdir(workdir, config.data.source)
    try:
        experiment = _open(config)
        side, name = experiment.model.pixels.size, config.data.source.rpartition("/")[2]
        lines = [f"images of {side} x {side} pixels, as {experiment.model.name} sees them before normalisation"]
        if preset := options.preset_in_words(config, config):
            lines.append(f"augment.preset {preset}")
        if is_cached_plain(experiment):
            lines.append("finetune.cache_features is on: what trains sees each image as evaluation does")
        elif (views := config.finetune.cache_views) > 1:
            lines.append(f"where features are cached, the views of the first {views} epochs are kept")
        print("\n".join(lines))
        sheets = {
            "train": (*_train_views(experiment), _COLUMNS, f"{name}: the first images of training"),
            "eval": (*_eval_views(experiment), _COLUMNS, f"{name}: evaluation, images of the validation split"),
            "one": _views_of_one(experiment),
        }
    except UserError:
        files.discard(workdir, made)
        raise
    paths = []
    for kind, (images, captions, columns, title) in sheets.items():
        path = workdir / f"show_{kind}.png"
        with writing(path):
            contact_sheet(images, captions, columns=columns, title=title).save(path)
        print(path)
        paths.append(path)
    return paths


def _open(config: ConfigDict) -> Experiment:
    """Builds the experiment from shapes, with its real data."""
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    experiment = build(config, abstract=True)
    splits = open_splits(config, source)
    # Neither batch nor reader changes a view, unless images of a batch are mixed: a small one is soon read.
    weights = bool(config.model.weights)
    facts = auto.facts_of(config, experiment.model, pretrained=weights, train=splits.train)
    resolved, notes = auto.resolve(config, facts)
    for note in (note for note in notes if note.startswith("augment.")):
        print(note)
    fitted = copy.deepcopy(fit_to_size(resolved, len(splits.train), 1)[0])
    if not _mixes(config):
        fitted.train.batch_size = min(_IMAGES, len(splits.train))
    fitted.eval.batch_size = min(_IMAGES, len(splits.val))
    fitted.data.reader = "threads"
    return replace(experiment, config=fitted, splits=splits)


def _mixes(config: ConfigDict) -> bool:
    return bool(config.augment.mixup or config.augment.cutmix)


def _train_views(experiment: Experiment) -> tuple[np.ndarray, list[str]]:
    """Returns the first images of the first step, mixed as it mixes them, and their labels in words."""
    if is_cached_plain(experiment):
        return _plain_views(experiment, experiment.splits.train)
    batch = _first(read_images(experiment).batches(0))
    images, labels = batch["image"], batch["label"]
    if _mixes(experiment.config):
        on_device = {name: jnp.asarray(value) for name, value in batch.items()}
        mixed = mix_images(experiment, {**on_device, "image": on_device["image"].astype(jnp.float32)}, step=0)
        images, labels = np.rint(mixed["image"]).astype(np.uint8), np.asarray(mixed["label"])
    return images[:_IMAGES], [_in_words(label, experiment.splits.train.classes) for label in labels[:_IMAGES]]


def _eval_views(experiment: Experiment) -> tuple[np.ndarray, list[str]]:
    return _plain_views(experiment, experiment.splits.val)


def _plain_views(experiment: Experiment, split: data.Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns images spread over a split, whose order may be that of its classes, as evaluation sees them."""
    count = min(_IMAGES, len(split))
    chosen = split.take(np.linspace(0, len(split) - 1, count).round().astype(int))
    batch = _first(options.evaluation_batches(experiment.config, experiment.model.pixels)(chosen))
    return batch["image"][:count], [_in_words(label, split.classes) for label in batch["label"][:count]]


def _views_of_one(experiment: Experiment) -> tuple[np.ndarray, list[str], int, str]:
    """Returns the first image of the split as training sees it in each of its first epochs."""
    config, model, train = experiment.config, experiment.model, experiment.splits.train
    augmentation = options.augmentation(config)
    view: Any = data.RandomView(model.pixels, augmentation)
    if is_cached_plain(experiment):
        view = data.FixedView(model.pixels)
    shown = []
    for epoch in range(_VIEWS):
        drawn = data.view_batches(
            train.take(np.zeros(1, int)),
            batch_size=1,
            seed=config.train.seed,
            epoch=epoch,
            view=view,
            min_side=augmentation.min_side(model.pixels),
            reading=options.reading(config),
        )
        shown.append(_first(drawn)["image"][0])
    captions = [f"epoch {epoch + 1}" for epoch in range(_VIEWS)]
    title = f"{train.names[0]} ({_in_words(train.labels[0], train.classes)}) in {_VIEWS} epochs"
    return np.stack(shown), captions, _COLUMNS_OF_VIEWS, title


def _first(batches: Iterator[data.loader.Batch]) -> data.loader.Batch:
    try:
        return next(batches)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _in_words(label: Any, classes: Sequence[str]) -> str:
    """Returns the class of a label, or the classes of one that has several, with their shares where those are parts."""
    if np.ndim(label) == 0:
        return classes[int(label)]
    shares = [(float(share), name) for share, name in zip(label, classes, strict=True) if share >= 0.005]
    named = (name if share > 0.995 else f"{share:.2f} {name}" for share, name in sorted(shares, reverse=True))
    return ", ".join(named) or "no label"
