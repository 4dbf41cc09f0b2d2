"""Features: what the frozen groups at the input make of each image, computed once instead of in every epoch."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from jaxtl.data.dataset import Dataset, batch_labels, batch_mask
from jaxtl.data.loader import Batch
from jaxtl.data.rows import rows_in_order, train_rows
from jaxtl.finetune.param_groups import FROZEN, Table
from jaxtl.models.base import auxiliary_weight
from jaxtl.parallel.fetch import one_behind
from jaxtl.trees import flatten, nest

MODES = ("auto", "on", "off")


class FeatureRows(Protocol):
    """Rows that can be picked by number: an array in memory, or `store.Mapped` on disk."""

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at `index` [B], as one array [B, ...]."""


@dataclass(frozen=True)
class Suffix:
    """The groups of a model from `start` to the head; the steps apply it to features as they apply a model to images.

    It takes the variables of the whole model, so that states and checkpoints are those of the whole model.
    """

    module: nn.Module
    start: str

    def apply(self, variables: Mapping[str, Any], features: jax.Array, **options: Any) -> Any:
        """Returns what `module.apply` does from the group `start` on; the options are those of `module.apply`."""
        return self.module.apply(variables, features, start=self.start, **options)

    @property
    def auxiliary_weight(self) -> float:
        """What the loss of each auxiliary head counts (see `jaxtl.models.base.Model`)."""
        return auxiliary_weight(self.module)

    def groups(self) -> Table:
        """Gives the groups of the whole model."""
        return self.module.groups()


def find_cut(table: Table, assignment: Mapping[str, str], labels: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Returns (the last group of the frozen prefix, the first group that trains); ("", ...) if there is no prefix.

    Args:
      table: the model's groups, from input to head.
      assignment: path of each parameter -> its group.
      labels: path -> group or "frozen", once for each stage of the run: a group that trains in any of them counts.
    """
    trained = {group for path, group in assignment.items() if any(stage[path] != FROZEN for stage in labels)}
    names = [name for name, _ in table]
    first = next(index for index, name in enumerate(names) if name in trained)
    return (names[first - 1] if first else ""), names[first]


def prefix_variables(variables: Mapping[str, Any], table: Table, stop: str) -> dict[str, Any]:
    """Returns the variables of the groups up to `stop`, included."""
    patterns = []
    for name, pattern in table:
        patterns.append(pattern)
        if name == stop:
            break
    inside = re.compile("|".join(rf"(?:{pattern})(?:/|$)" for pattern in patterns))
    leaves = flatten(variables)
    return nest({path: leaf for path, leaf in leaves.items() if inside.match(path.partition("/")[2])})


def compute(
    forward: Callable[[Any], jax.Array],
    batches: Iterable[Batch],
    write: Callable[[int, np.ndarray], None],
    *,
    count: int,
    shard_batch: Callable[[Any], Any],
    first: int = 0,
) -> int:
    """Writes the features of `count` examples, which `batches` gives in order; returns the row after the last one.

    Args:
      forward: images on the devices -> features [B, ...], whole on each device.
      batches: from `eval_batches` or `view_batches`.
      write: (row, features) -> None.
      count: number of examples; rows past it are padding.
      shard_batch: spreads a batch over the devices.
      first: the row of the first example.
    """
    row, end = first, first + count
    for values in one_behind(forward(shard_batch({"image": batch["image"]})["image"]) for batch in batches):
        kept = np.asarray(values)[: end - row]
        write(row, kept)
        row += len(kept)
    return row


def train_batches(
    features: FeatureRows,
    dataset: Dataset,
    *,
    views: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yields batches of features without end, of the same examples as the batches of images would be.

    Args:
      features: row v * n + i is view v of example i.
      dataset: the n examples, for their labels, sampling and weights.
      views: V; epoch e shows view e mod V.
      batch_size: rows of the global batch.
      seed: of the order.
      start_step: number of batches to leave out at the beginning.
      shard: (this host, number of hosts).

    Yields:
      {"image": the features [B, ...], "label": int32 [B] or float32 [B, C], "mask": float32 [B]}.
    """
    count, labels = len(dataset), dataset.labels
    plans = train_rows(
        labels, batch_size=batch_size, seed=seed, start_step=start_step, shard=shard, sampling=dataset.sampling
    )
    for rows in plans:
        picked = features[(rows.epoch % views) * count + rows.index]
        yield {
            "image": picked,
            "label": batch_labels(labels, rows.index),
            "mask": batch_mask(rows.index, dataset.weights),
        }


def eval_batches(
    features: FeatureRows, labels: np.ndarray, *, batch_size: int, first: int = 0, shard: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Yields every example once, its features from row `first` on; the last batch is filled up with mask 0."""
    for rows in rows_in_order(len(labels), batch_size=batch_size, shard=shard):
        real = rows.index >= 0
        index = np.where(real, rows.index, 0)
        given = batch_labels(labels, rows.index)
        yield {"image": features[first + index], "label": given, "mask": real.astype(np.float32)}
