"""A CIFAR ResNet, fine-tuned on CIFAR-10 or on 32x32 images of your own, or measured as it comes.

Variants: "" is ResNet-20; resnet32, resnet44, resnet56 and resnet110 are the deeper ones.

    python -m jaxtl.main --config=configs/resnet_cifar.py --workdir=runs/cifar
    python -m jaxtl.main --config=configs/resnet_cifar.py:resnet32 --workdir=runs/cifar32
    python -m jaxtl.main --config=configs/resnet_cifar.py:resnet44 --workdir=runs/cifar44
    python -m jaxtl.main --config=configs/resnet_cifar.py:resnet56 --workdir=runs/cifar56
    python -m jaxtl.main --config=configs/resnet_cifar.py:resnet110 --workdir=runs/cifar110

The weights are those of https://github.com/akamaster/pytorch_resnet_cifar10, read with `pip install -e '.[torch]'`.
Without a network, give the files: --config.model.weights=resnet20-12fca82f.th --config.data.source=npz:FILE

Measured as they come, on 1,017 test images of CIFAR-10 (an npz with 5,085 images to train on): resnet20 91.64 %,
resnet32 92.82 %, each by

    python -m jaxtl.main eval --config=configs/resnet_cifar.py --workdir=runs/cifar_eval

Fine-tuning on so few of the images that they were trained on has not been measured.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib

VARIANTS = {name: f"{name or 'resnet20'}_cifar" for name in ("", "resnet32", "resnet44", "resnet56", "resnet110")}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.model.name = lib.choose_variant(variant, VARIANTS)
    c.model.weights = "pretrained"
    c.data.source = "tfds:cifar10"
    c.augment.crop = "pad_crop"
    # The network is trained on these classes already: a small rate keeps what it knows.
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.005
    c.optimizer.weight_decay = 5e-4
    c.optimizer.warmup_steps = 20
    c.train.batch_size = 128
    c.train.epochs = 5.0
    c.train.check_learning_rate = True
    return c
