"""Accumulators over the batches of an evaluation: all metrics derive from them, never from means of means."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.errors import Stopped
from jaxtl.evaluate.details import MAX_CONFUSION_CLASSES as MAX_CONFUSION_CLASSES
from jaxtl.parallel.fetch import one_behind

T = TypeVar("T")
Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Prepare = Callable[[Batch], Batch]
Accumulators = dict[str, jax.Array]
Rows = dict[str, jax.Array]


def eval_step(
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    model: nn.Module,
    loss_fn: Loss = optax.softmax_cross_entropy_with_integer_labels,
    prepare: Prepare | None = None,
    axis_name: str | None = None,
) -> tuple[Accumulators, Rows]:
    """Returns the accumulators of one batch over its rows with mask 1, and what they were computed from.

    Args:
      variables: parameters and collections of the model.
      batch: "image" [B, H, W, C], "label" [B], or of several an image [B, C] of 0 and 1, and optionally "mask" [B] with
        0 for padding.
      model: a Linen module called as model.apply(variables, images, train=False).
      loss_fn: (logits [B, C], labels [B]) -> per-example loss [B].
      prepare: batch -> batch, run on the device before the model (normalisation).
      axis_name: the pmap axis to sum over, and to gather rows along; None under jit.

    Returns:
      The accumulators: "count", "loss", "correct", "top5" (scalars); "hits", "predicted" and "actual" (per class,
      [C]); and up to MAX_CONFUSION_CLASSES classes "confusion" [C, C] (row: the true class, column: the predicted one).
      Of several labels an image, those of `multilabel_accumulators`.
      The rows of the whole batch: "logits" [B, C], float32, and "mask" [B].
    """
    batch = {"mask": jnp.ones(batch["image"].shape[:1], jnp.float32), **batch}
    if prepare is not None:
        batch = dict(prepare(batch))
    logits = jnp.asarray(model.apply(variables, batch["image"], train=False))
    accumulators = batch_accumulators(logits, batch["label"], batch["mask"], loss_fn)
    # bfloat16 fits into float32: no logits change their order.
    rows = {"logits": logits.astype(jnp.float32), "mask": batch["mask"]}
    if axis_name is None:
        return accumulators, rows
    return jax.lax.psum(accumulators, axis_name), jax.lax.all_gather(rows, axis_name, tiled=True)


def batch_accumulators(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    loss_fn: Loss = optax.softmax_cross_entropy_with_integer_labels,
) -> Accumulators:
    """Returns the accumulators of `eval_step` for logits [B, C], labels [B] or [B, C], and mask [B]."""
    if labels.ndim == 2:
        return multilabel_accumulators(logits, labels, mask, loss_fn)
    classes = logits.shape[-1]
    counted = mask > 0
    predicted = logits.argmax(-1)
    # The rank of the true class: how many classes score higher. Ties count for the model, as in a stable top-k.
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    rank = (logits > own).sum(-1)
    weight = counted.astype(jnp.int32)

    def per_class(index: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.zeros(classes, jnp.int32).at[index].add(weights)

    accumulators = {
        "count": weight.sum(),
        "loss": (loss_fn(logits, labels) * mask).sum(),
        "correct": ((predicted == labels) & counted).sum(),
        "top5": ((rank < 5) & counted).sum(),
        "hits": per_class(labels, weight * (predicted == labels)),
        "predicted": per_class(predicted, weight),
        "actual": per_class(labels, weight),
    }
    if classes <= MAX_CONFUSION_CLASSES:
        accumulators["confusion"] = jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(weight)
    return accumulators


def multilabel_accumulators(logits: jax.Array, labels: jax.Array, mask: jax.Array, loss_fn: Loss) -> Accumulators:
    """Returns the accumulators of several labels an image, each predicted where its sigmoid is 0.5 or more.

    They are "count", "loss", "correct" (images whose labels are all right) and "mistakes" (wrong labels of all images),
    and per label "hits", "predicted" and "actual" [C].

    Args:
      logits: [B, C].
      labels: 0 and 1 [B, C].
      mask: 0 for padding [B].
      loss_fn: (logits, labels) -> loss of each example [B].
    """
    counted = mask > 0
    there, said = labels > 0.5, logits >= 0

    def per_class(marked: jax.Array) -> jax.Array:
        return (marked & counted[:, None]).astype(jnp.int32).sum(0)

    return {
        "count": counted.astype(jnp.int32).sum(),
        "loss": (loss_fn(logits, labels) * mask).sum(),
        "correct": ((there == said).all(-1) & counted).sum(),
        "mistakes": per_class(there != said).sum(),
        "hits": per_class(there & said),
        "predicted": per_class(said),
        "actual": per_class(there),
    }


def fetch_batches(
    step: Callable[[Any, Any], T],
    variables: Any,
    batches: Iterable[Any],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[T]:
    """Yields what a compiled step gives for each batch, on the host, while the next batch is computed.

    Args:
      step: (variables, batch) -> arrays.
      variables: on the devices.
      batches: each on the devices.
      stop: asked after each batch whether to leave it at that.

    Raises:
      Stopped: `stop` said so.
    """

    def results() -> Iterator[T]:
        for batch in batches:
            yield step(variables, batch)
            if stop():
                raise Stopped("the evaluation was left")

    return one_behind(results())


def add_up(batches: Iterable[Accumulators]) -> dict[str, np.ndarray]:
    """Returns the accumulators of all batches, added in float64 and int64 on the host.

    Raises:
      ValueError: there is no batch.
    """
    total: dict[str, np.ndarray] = {}
    for accumulators in batches:
        for key, value in accumulators.items():
            wide = np.float64 if np.asarray(value).dtype.kind == "f" else np.int64
            total[key] = np.asarray(value).astype(wide) + total.get(key, 0)
    if not total:
        raise ValueError("an evaluation needs at least one batch")
    return total
