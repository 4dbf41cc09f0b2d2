"""Gradual unfreezing of a ResNet in three steps: the head, then the last stage of blocks too, then everything.

Each step starts from what the one before has learnt, at a smaller rate (https://arxiv.org/abs/1801.06146). What is
still frozen costs no backward pass, and its BatchNorm keeps its statistics.

    python -m jaxtl.main --config=configs/resnet_unfreeze.py --workdir=runs/unfreeze

With files of your own: --config.data.source=folder:DIR --config.model.name=... --config.model.weights=FILE

Not measured to the end yet, for want of a ResNet pretrained on photographs at hand: no figure.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; there are no variants."""
    c = lib.default()
    lib.choose_variant(variant, {"": None})
    c.data.source = "tfds:oxford_flowers102"
    c.model.name = "resnet50"
    c.model.weights = "hf:timm/resnet50.tv_in1k"
    c.augment.scale = (0.5, 1.0)
    c.finetune.stages = (
        {"epochs": 2, "unfreeze": "head"},
        {"epochs": 3, "unfreeze": 3},
        # Weights that know images like yours want less here: "rate": 0.1.
        {"epochs": 15, "unfreeze": "all"},
    )
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_steps = 10
    c.train.label_smoothing = 0.1
    c.train.batch_size = 32
    c.train.check_learning_rate = True
    return c
