"""Random views of an image for training: options, presets, and what draws them."""

from jaxtl.data.augment.affine import FILLS
from jaxtl.data.augment.crops import random_box
from jaxtl.data.augment.options import CROPS, POLICIES, Augmentation
from jaxtl.data.augment.presets import PRESETS
from jaxtl.data.augment.view import FixedView, RandomView, train_view

__all__ = [
    "CROPS",
    "FILLS",
    "POLICIES",
    "PRESETS",
    "Augmentation",
    "FixedView",
    "RandomView",
    "random_box",
    "train_view",
]
