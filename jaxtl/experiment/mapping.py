"""The features of a run's images, for a map of them, and for the training images nearest to a mistake."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from jaxtl import data
from jaxtl.data.normalize import normalize
from jaxtl.evaluate.embedding import PROJECTIONS, nearest, project
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.model import Model
from jaxtl.report.feature_map import map_chart

# So many images of a split are on the map, and so many training images are looked through for neighbours.
_ON_THE_MAP, _TRAINING = 2000, 5000
_TITLES = {"pca": "Principal components", "tsne": "t-SNE"}


@dataclass(frozen=True)
class Mapped:
    """Images with their features.

    Attributes:
      dataset: the images.
      features: what the head of the best checkpoint reads of each [N, D].
    """

    dataset: data.Dataset
    features: np.ndarray


def map_images(
    workdir: Path, splits: Mapping[str, data.Dataset], *, always: Mapping[str, np.ndarray] | None = None
) -> dict[str, Mapped]:
    """Passes once over images of each split with the best checkpoint of a run; of large splits, over some.

    Args:
      workdir: of the run.
      splits: by name; "train" is searched for neighbours.
      always: indices of images of a split that are never left out.

    Raises:
      UserError: the run has no checkpoint, or an image cannot be read.
    """
    model, variables, _ = build_run(workdir)
    config = files.run_config(workdir)
    batches = options.evaluation_batches(config, model.pixels)
    forward = _features(model, variables)
    found = {}
    for name, split in splits.items():
        chosen = _some(split, _TRAINING if name == "train" else _ON_THE_MAP, (always or {}).get(name, np.zeros(0, int)))
        rows = [np.asarray(forward(batch["image"])) for batch in batches(chosen)]
        found[name] = Mapped(chosen, np.concatenate(rows)[: len(chosen)])
    return found


def _features(model: Model, variables: Mapping[str, Any]) -> Any:
    module = model.module.clone(num_classes=0)
    if model.module.custom_head:
        module = module.clone(head_hidden=(), single_logit=False)
    on_device = jax.device_put(variables)
    return jax.jit(lambda images: module.apply(on_device, normalize(images, model.pixels), train=False))


def _some(split: data.Dataset, most: int, always: np.ndarray) -> data.Dataset:
    """Returns a split, or of a large one as many images as are wanted, drawn with a fixed seed, besides some."""
    if len(split) <= most:
        return split
    drawn = np.random.default_rng(0).choice(len(split), most, replace=False)
    return split.take(np.union1d(drawn, always))


def map_charts(mapped: Mapped, split: str) -> list[Markup]:
    """Returns a map of a split by each projection."""
    dataset = mapped.dataset
    return [
        map_chart(
            project(mapped.features, method),
            dataset.labels,
            list(map(str, dataset.names)),
            dataset.classes,
            f"{_TITLES[method]}, {split}",
        )
        for method in PROJECTIONS
    ]


def neighbours(mapped: Mapping[str, Mapped], split: str, names: list[str], *, count: int = 4) -> dict[str, list[int]]:
    """Returns the training images nearest to images of a split: name -> indices into the mapped training images.

    Args:
      mapped: from `map_images`, "train" among it.
      split: of the images.
      names: theirs; one that is not on the map is left out.
      count: how many neighbours.
    """
    places = {str(name): index for index, name in enumerate(mapped[split].dataset.names)}
    known = [name for name in names if name in places]
    if not known:
        return {}
    queries = mapped[split].features[[places[name] for name in known]]
    order, _ = nearest(queries, mapped["train"].features, count=count)
    return dict(zip(known, order.tolist(), strict=True))
