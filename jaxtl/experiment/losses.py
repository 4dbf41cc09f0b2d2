"""The losses that a config describes: of training, and of evaluation."""

import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtl.errors import UserError
from jaxtl.train.losses import Loss, balanced_weights, make_loss


def choose_loss(config: ConfigDict, classes: int, labels: np.ndarray | None) -> Loss:
    """Returns the loss that the config describes.

    Args:
      config: the config.
      classes: number of classes.
      labels: of the training split, to count the classes; None where no data were opened, for equal weights.

    Raises:
      UserError: there are more or fewer weights than classes, or the loss is no such function.
    """
    text = config.train.class_weights
    weights = None
    several = labels is not None and labels.ndim == 2
    if text and several:
        weights = np.ones(classes, np.float32)  # Which are refused.
    elif text == "balanced" and labels is not None:
        weights = balanced_weights(np.bincount(labels, minlength=classes))
    elif text and text != "balanced":
        weights = np.asarray([float(number) for number in text.split(",")], np.float32)
        if len(weights) != classes:
            raise UserError(
                f"train.class_weights has {len(weights)} numbers, but there are {classes} classes: give one a class."
            )
    return make_loss(
        config.train.loss,
        num_classes=classes,
        label_smoothing=config.train.label_smoothing,
        gamma=config.train.focal_gamma,
        weights=weights,
        several=several,
    )


def evaluation_loss(config: ConfigDict, num_classes: int, *, several: bool = False) -> Loss:
    """Returns the loss that evaluations report: of the kind that trains, without smoothing and class weights.

    Args:
      config: of the training.
      num_classes: the width of the logits.
      several: whether an image has several labels, or none.
    """
    if config.train.loss == "softmax" and not several:
        return optax.softmax_cross_entropy_with_integer_labels
    return make_loss(config.train.loss, num_classes=num_classes, gamma=config.train.focal_gamma, several=several)
