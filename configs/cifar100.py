"""CIFAR-100 with a ViT-B/16 from ImageNet-21k at 224 pixels; head trains the head alone, on features computed once.

    python -m jaxtl.main --config=configs/cifar100.py --workdir=runs/cifar100
    python -m jaxtl.main --config=configs/cifar100.py:head --workdir=runs/cifar100_head

Not run here on CIFAR-100. head with DeiT-Tiny on 4,577 images of a CIFAR-10 subset: 84.9 % of 508 validation images
(seed 0). Published for a ViT-B/16 from ImageNet-21k at 384 pixels: 91.67 %
(https://arxiv.org/abs/2010.11929, table 5).
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "" or "head"."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.data.source = "tfds:cifar100"
    c.model.name = "vit_b16"
    c.model.weights = "hf:timm/vit_base_patch16_224.orig_in21k"
    c.model.image_size = 224
    c.model.resize = 224  # The whole picture, not its centre.
    c.optimizer.clip_norm = 1.0
    lib.choose_variant(variant, VARIANTS)(c)
    return c


def _all(c: ConfigDict) -> None:
    c.augment.scale = (0.5, 1.0)
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.01
    c.optimizer.warmup_steps = 500
    c.train.batch_size = 512
    c.train.steps = 2_000
    c.train.eval_every = 200


def _head(c: ConfigDict) -> None:
    c.augment.crop = "none"
    c.augment.flip = 0.0
    c.finetune.unfreeze = "head"
    c.optimizer.learning_rate = 1e-3
    c.train.batch_size = 256
    c.train.epochs = 20.0


VARIANTS = {"": _all, "head": _head}
