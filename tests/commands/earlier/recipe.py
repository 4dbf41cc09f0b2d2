"""The recipe of the run in run.tar.xz, which an earlier version (a53bf70) began and left after step 6 of 12."""

from ml_collections import ConfigDict

from jaxtl import config


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config."""
    c = config.default()
    c.data.source = "folder:pictures"
    c.model.name = "vit_petals:depth=3,width=16,heads=2,patch=8,registers=1"
    c.model.image_size = 16
    c.model.scan = True
    c.augment.crop = "none"
    c.train.batch_size = 8
    c.train.eval_every = 3
    c.train.ema_decay = 0.5
    c.finetune.layer_decay = 0.8
    c.finetune.groups = {"block0": {"learning_rate": 0.01}}
    c.finetune.stages = ({"steps": 3, "unfreeze": "head"}, {"steps": 9, "unfreeze": "all"})
    c.optimizer.weight_decay = 0.05
    return c
