"""Plants in folders of photographs, one folder a class: what the features know already, then the head, then everything.

    python -m jaxtl.main probe --config=configs/plants.py --workdir=runs/plants_probe --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/plants.py --workdir=runs/plants --config.data.source=folder:DIR

The first command passes over the images once and says how far a linear classifier comes on the frozen features: the
figure that fine-tuning has to beat. Plants stand upright, lie and hang, so views are mirrored, and cropped by half at
most: colour is kept, as it tells species apart.

Measured with DeiT-Tiny on 12 classes of photographs of flowers (720 to train on, 240 to test), seed 0 alone: 97.9 %.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; there are no variants."""
    c = lib.default()
    lib.choose_variant(variant, {"": None})
    c.data.source = "tfds:oxford_flowers102"
    c.model.name = "vit_ti16"
    c.model.weights = "pretrained"
    c.model.drop_path = 0.1
    c.augment.scale = (0.5, 1.0)
    c.finetune.stages = (
        {"epochs": 3, "unfreeze": "head"},
        {"epochs": 5, "unfreeze": "all", "rate": 0.0625},
    )
    c.finetune.layer_decay = 0.85
    c.optimizer.learning_rate = 5e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.warmup_steps = 10
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 32
    # Few images tell two checkpoints apart by loss, not by accuracy.
    c.train.monitor = "loss"
    return c
