"""Cats or dogs with VGG16, as tutorials do it: its convolutions frozen, then Flatten, Dense(256) and one sigmoid.

    python -m jaxtl.main --config=configs/vgg_cats_dogs.py --workdir=runs/cats --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/vgg_cats_dogs.py:last_block --workdir=runs/b --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/vgg_cats_dogs.py:fixed --workdir=runs/c --config.data.source=folder:DIR

DIR holds train/ and test/ with one folder for each of the two classes. "" freezes all of VGG16 and trains the new head
on views that are sheared, zoomed and mirrored; last_block trains the last block of convolutions too, at a tenth of the
rate; fixed draws nothing at random, so that what VGG16 makes of the images is computed once, and ten epochs take
seconds. Adam, batches of 32, 10 epochs, and loss and accuracy on test at the end, in all of them.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "", "last_block" or "fixed"."""
    c = lib.default()
    c.data.source = "tfds:cats_vs_dogs"
    c.model.name = "vgg16"
    c.model.weights = "pretrained"
    c.model.resize = 224  # The whole photograph, not its centre.
    c.model.pool = "flatten"
    c.model.head_hidden = "256"
    c.model.single_logit = True
    c.model.dropout = 0.5
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "constant"
    c.train.batch_size = 32
    c.train.epochs = 10.0
    c.augment.crop = "none"
    # What Keras' ImageDataGenerator draws with shear_range=0.2, in degrees, zoom_range=0.2 and horizontal_flip=True.
    c.augment.shear = 0.2
    c.augment.zoom = 0.2
    c.augment.fill = "nearest"
    c.finetune.unfreeze = "head"
    lib.choose_variant(variant, VARIANTS)(c)
    return c


def _frozen(c: ConfigDict) -> None:
    """Changes nothing."""


def _last_block(c: ConfigDict) -> None:
    c.finetune.unfreeze = "block5,head"
    c.finetune.lr_multipliers = {"block5": 0.1}


def _fixed(c: ConfigDict) -> None:
    c.augment.shear = 0.0
    c.augment.zoom = 0.0
    c.augment.flip = 0.0


VARIANTS = {"": _frozen, "last_block": _last_block, "fixed": _fixed}
