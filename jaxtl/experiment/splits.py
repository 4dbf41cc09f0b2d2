"""The splits of a config's data, as a run trains on them: the one place where they are chosen."""

from dataclasses import replace

import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.parallel import processes

# Of larger sets, reading all files of equal size would take minutes.
_COMPARED = 50_000


def usable(config: ConfigDict, source: data.Source) -> data.Source:
    """Returns the source as it is used: put right by hand, and without broken images, where the config says so."""
    exclude, relabel = config.data.exclude, config.data.relabel
    if exclude or relabel:
        corrections = data.read_corrections(source.splits, source.uri, exclude=exclude, relabel=relabel)
        source = replace(source, corrections=corrections)
    return data.without_broken(source, workers=config.data.workers) if config.data.skip_broken else source


def open_splits(config: ConfigDict, source: data.Source, *, by_class: bool = True) -> data.Splits:
    """Chooses the splits that the config names, or the source has.

    Args:
      config: the config.
      source: from `usable`.
      by_class: whether what is derived has each class on every side.
    """
    keys = config.data
    splits = data.choose_splits(source, train=keys.train, val=keys.val, test=keys.test, by_class=by_class)
    sampling = config.train.sampling
    if sampling and splits.train.several:
        raise UserError(
            f'train.sampling is "{sampling}", but the images have several labels: it draws one class an image. Give "".'
        )
    weights = splits.train.weights
    if weights is not None:  # So that rates mean what they mean without.
        weights = (weights / weights.mean()).astype(np.float32)
    return replace(splits, train=replace(splits.train, sampling=sampling, weights=weights))


def with_shared_images(source: data.Source, splits: data.Splits) -> data.Splits:
    """Returns the splits with a warning of images that train shares with others.

    Prepared sets are as their makers meant them, and their images are read only when they are needed; of several
    processes each reads its share alone; and large sets would take too long.
    """
    images = sum(len(split) for split in (splits.train, splits.val, splits.test) if split is not None)
    if source.by_position or processes.is_multiprocess() or images > _COMPARED:
        return splits
    shared = data.shared_images({"train": splits.train, "val": splits.val, "test": splits.test})
    return replace(splits, notes=(*splits.notes, *shared))
