"""ImageNet-1k at 224 pixels: a ViT-B/16 from ImageNet-21k, fine-tuned whole, or its linear probe.

    python -m jaxtl.main --config=configs/imagenet.py --workdir=runs/imagenet
    python -m jaxtl.main --config=configs/imagenet.py:probe --workdir=runs/imagenet_probe
    python -m jaxtl.main eval --config=configs/imagenet.py:probe --workdir=runs/eval --config.model.weights=pretrained

probe trains the head on features that are computed once and kept on disk (2.0 GB for 1.28 million images), so that its
epochs cost seconds. The third command measures published weights as they come. Not trained here. Published for this
ViT-B/16 at 384 pixels, fine-tuned: 83.97 % (https://arxiv.org/abs/2010.11929, table 5).
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "" or "probe"."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.data.source = "tfds:imagenet2012"
    # Its test split has no labels: what papers report is its validation split.
    c.data.train = "train[:99%]"
    c.data.val = "train[99%:]"
    c.data.test = "validation"
    c.model.name = "vit_b16"
    c.model.weights = "hf:timm/vit_base_patch16_224.orig_in21k"
    c.train.precision = "bfloat16"
    lib.choose_variant(variant, VARIANTS)(c)
    return c


def _all(c: ConfigDict) -> None:
    c.augment.scale = (0.2, 1.0)
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.03
    c.optimizer.warmup_steps = 500
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 512
    c.train.steps = 20_000
    c.train.eval_every = 1_000


def _probe(c: ConfigDict) -> None:
    c.augment.crop = "none"
    c.augment.flip = 0.0
    c.finetune.unfreeze = "head"
    c.finetune.cache_features = "on"
    c.optimizer.learning_rate = 1e-3
    c.train.batch_size = 4_096
    c.train.epochs = 30.0


VARIANTS = {"": _all, "probe": _probe}
