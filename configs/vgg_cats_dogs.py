"""Cats or dogs with VGG16, as tutorials do it: its convolutions frozen, then Flatten, Dense(256) and one sigmoid.

    python -m jaxtl.main --config=configs/vgg_cats_dogs.py --workdir=runs/cats --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/vgg_cats_dogs.py:last_block --workdir=runs/b --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/vgg_cats_dogs.py:fixed --workdir=runs/c --config.data.source=folder:DIR

DIR holds train/ and test/ with one folder for each of the two classes. "" freezes all of VGG16 and trains the new head
on views that are sheared, zoomed and mirrored; last_block trains the last block of convolutions too, at a tenth of the
rate; fixed draws nothing at random, so that what VGG16 makes of the images is computed once. Adam, batches of 32, 10
epochs, and loss and accuracy on test at the end, in all of them.

No ImageNet weights of VGG16 were at hand, so this shows only that the recipe learns. A VGG16 with BatchNorm and a
quarter of the channels (vgg16_bn:width=16,hidden=256) was pretrained here on eight other classes of a CIFAR-10 subset
(3,704 images of 32 pixels, to 68.3 %); then, on 866 cats and dogs of that subset at 32 pixels and a rate of 1e-3, with
191 to test, seeds 0, 1 and 2: 63.4, 60.7 and 63.4 %, last_block 62.8, 63.4 and 64.9 %, fixed 63.9, 63.9 and 62.8 %, in
23 s for 50 of "" on a busy machine. Published for this recipe with ImageNet's weights, 2,000 photographs and Keras:
about 90 %, and 94 % with the last block
(blog.keras.io/building-powerful-image-classification-models-using-very-little-data.html).
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "", "last_block" or "fixed"."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.optimizer.warmup_steps = 0
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
