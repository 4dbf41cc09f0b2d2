"""Losses: pure functions `loss(logits, labels) -> per-example loss`; masks and means are taken in the step alone."""

import importlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.errors import UserError

Loss = Callable[[jax.Array, jax.Array], jax.Array]

NAMES = ("softmax", "binary", "focal")


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy of each example, [B].

    Args:
      logits: [B, C].
      labels: class indices [B], or probabilities [B, C].
      label_smoothing: the share of the target that is spread evenly over all classes
        (https://arxiv.org/abs/1512.00567), in [0, 1).
    """
    return optax.softmax_cross_entropy(logits, _targets(logits, labels, label_smoothing))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the sum over the classes of one sigmoid cross entropy each, [B].

    Every class is a yes or no of its own (https://arxiv.org/abs/2110.00476), so an image may show several.

    Args:
      logits: [B, C].
      labels: class indices [B], or how much each class is there [B, C], in [0, 1].
      label_smoothing: as in `softmax_cross_entropy`.
    """
    return optax.sigmoid_binary_cross_entropy(logits, _targets(logits, labels, label_smoothing)).sum(-1)


def focal_loss(logits: jax.Array, labels: jax.Array, *, gamma: float = 2.0, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy with each class' term times (1 - its probability) ** gamma, [B].

    Examples that are right already count less (https://arxiv.org/abs/1708.02002).

    Args:
      logits: [B, C].
      labels: class indices [B], or probabilities [B, C].
      gamma: how much less; 0 gives `softmax_cross_entropy`.
      label_smoothing: as in `softmax_cross_entropy`.
    """
    log_p = jax.nn.log_softmax(logits)
    # 1 - p as a sum of the others: exact where p is nearly 1, and its power has a finite gradient there.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    return -(_targets(logits, labels, label_smoothing) * rest**gamma * log_p).sum(-1)


def to_probabilities(logits: jax.Array, loss: str = "softmax") -> jax.Array:
    """Returns the probabilities that logits [B, C] mean after training with the loss of that name.

    Under "binary" every class has one of its own, by the sigmoid; else they add up to 1 in each row, by the softmax,
    for a function of the user too.
    """
    return jax.nn.sigmoid(logits) if loss == "binary" else jax.nn.softmax(logits)


def class_weighted(loss: Loss, weights: Sequence[float] | np.ndarray) -> Loss:
    """Returns the loss times the weight of the example's class; of probabilities, their weighted mean.

    The step still divides by the number of examples, so weights with mean 1 over the data keep the loss' size.

    Args:
      loss: any loss of this kind.
      weights: one number a class, [C].
    """
    table = np.asarray(weights, np.float32)

    def weighted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        factor = jnp.asarray(table)[labels] if labels.ndim == 1 else labels @ table
        return loss(logits, labels) * factor

    return weighted


def balanced_weights(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns weights in inverse proportion to the counts, float32 [C]; their mean over the examples is 1.

    A class without examples has weight 0.
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    weights = np.divide(counts.sum(), counts * occurs.sum(), out=np.zeros_like(counts), where=occurs)
    return weights.astype(np.float32)


def make_loss(
    name: str,
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    gamma: float = 2.0,
    weights: Sequence[float] | np.ndarray | None = None,
    several: bool = False,
) -> Loss:
    """Returns the loss of that name.

    Args:
      name: one of NAMES, or "module:function" for a function (logits [B, C], labels [B] or [B, C]) -> [B].
      num_classes: the width of the logits.
      label_smoothing: of the losses in NAMES.
      gamma: of "focal".
      weights: one number a class (see `class_weighted`); None for none.
      several: whether an image has several labels, or none: labels are then 0 and 1 [B, C].

    Raises:
      UserError: the function is not there, or does not give one number an example; or an image has several labels, and
        the loss takes one, or there are weights.
    """
    if several:
        _check_several(name, weights is not None)
    if name == "focal":
        loss: Loss = lambda logits, labels: focal_loss(logits, labels, gamma=gamma, label_smoothing=label_smoothing)  # noqa: E731
    elif name in NAMES:
        function = {"softmax": softmax_cross_entropy, "binary": binary_cross_entropy}[name]
        loss = lambda logits, labels: function(logits, labels, label_smoothing=label_smoothing)  # noqa: E731
    else:
        loss = _import(name)
        _check_shape(name, loss, num_classes, several)
    return loss if weights is None else class_weighted(loss, weights)


def _targets(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    soft = labels if labels.ndim == logits.ndim else jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.smooth_labels(soft, label_smoothing)


def _import(name: str) -> Loss:
    module, _, function = name.partition(":")
    try:
        loss = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the loss {name!r} cannot be imported ({error}): give one of {', '.join(NAMES)}, "
            'or "module:function" of a module on the Python path.'
        ) from error
    if not callable(loss):
        raise UserError(f"the loss {name!r} is no function: it must map (logits, labels) to [B].")
    return loss


def _check_several(name: str, weighted: bool) -> None:
    """Raises a UserError for what says nothing sensible of several labels an image."""
    if name in NAMES and name != "binary":
        raise UserError(
            f'the loss "{name}" takes one label an image, and these images have several, or none: give "binary".',
            arguments=["loss"],
        )
    if weighted:
        raise UserError(
            "class weights weigh images by their one class, and these images have several labels, or none: do without.",
            arguments=["class_weights"],
        )


def _check_shape(name: str, loss: Loss, num_classes: int, several: bool = False) -> None:
    logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    labels = logits if several else jax.ShapeDtypeStruct((2,), jnp.int32)
    try:
        result = jax.eval_shape(loss, logits, labels)
        found = f"gives shape {result.shape}" if result.shape != (2,) else ""
    # Whatever the user's function raises is what is wrong with it.
    except Exception as error:
        found = f"fails: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
    if found:
        raise UserError(
            f"the loss {name!r} {found} for logits (2, {num_classes}) and labels {labels.shape}: "
            "it must give one number an example, (2,)."
        )
