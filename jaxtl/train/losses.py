"""Losses: pure functions `loss(logits, labels) -> per-example loss`; masks and means are taken in the step alone."""

import jax
import optax


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy of each example, [B].

    Args:
      logits: [B, C].
      labels: class indices [B], or probabilities [B, C].
      label_smoothing: the share of the target that is spread evenly over all classes
        (https://arxiv.org/abs/1512.00567), in [0, 1).
    """
    targets = labels if labels.ndim == logits.ndim else jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
