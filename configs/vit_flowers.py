"""x"""

from pathlib import Path

from ml_collections import ConfigDict

import jaxtl
from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "", "b32_384", "ti16" or "demo"."""
    c = lib.default()
    lib.choose_variant(variant, VARIANTS)(c)
    return c


def _published(c: ConfigDict) -> None:
    c.data.source = "tfds:oxford_flowers102"
    c.model.image_size = 384
    c.model.resize = 384
    c.augment.crop = "resize_crop"
    c.augment.resize = 448
    c.optimizer.name = "sgd"
    c.optimizer.momentum = 0.9
    c.optimizer.learning_rate = 0.003
    c.optimizer.warmup_steps = 100
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 512
    c.train.steps = 500
    c.train.eval_every = 50


def _b16_384(c: ConfigDict) -> None:
    _published(c)
    c.model.name = "vit_b16"
    c.model.weights = "hf:timm/vit_base_patch16_224.orig_in21k"


def _b32_384(c: ConfigDict) -> None:
    _published(c)
    c.model.name = "vit_b32"
    c.model.weights = "hf:timm/vit_base_patch32_224.orig_in21k"


def _ti16(c: ConfigDict) -> None:
    c.data.source = "tfds:oxford_flowers102"
    c.model.name = "vit_ti16"
    c.model.weights = "hf:timm/deit_tiny_patch16_224.fb_in1k"
    c.augment.scale = (0.5, 1.0)
    # The head is new and learns faster than the layers that only have to adapt.
    c.finetune.lr_multipliers = {"embed|block.*": 0.05}
    c.finetune.layer_decay = 0.85
    c.optimizer.learning_rate = 8e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.warmup_steps = 10
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 32
    c.train.epochs = 5.0
    # A tenth of a small set is too few images for accuracy to tell two checkpoints apart; the loss is finer.
    c.train.monitor = "loss"


def _demo(c: ConfigDict) -> None:
    c.data.source = "tfds:petals/transfer"
    c.model.name = "vit_petals"
    c.model.weights = str(Path(jaxtl.__file__).parent / "weights" / "petals.safetensors")
    c.augment.crop = "none"  # The pictures are drawn in every pose already; a mirror image is enough.
    c.finetune.layer_decay = 0.75
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.warmup_steps = 18
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 32
    c.train.epochs = 20.0
    c.train.monitor = "loss"


VARIANTS = {"": _b16_384, "b32_384": _b32_384, "ti16": _ti16, "demo": _demo}
