"""Gradual unfreezing of a ResNet in three steps: the head, then the last stage of blocks too, then everything.

Each step starts from what the one before has learnt (https://arxiv.org/abs/1801.06146). What is still frozen costs no
backward pass, and its BatchNorm keeps its statistics.

    python -m jaxtl.main --config=configs/resnet_unfreeze.py --workdir=runs/unfreeze

With files of your own: --config.data.source=folder:DIR --config.model.name=... --config.model.weights=FILE

Measured with a ResNet-20 pretrained on CIFAR-10, at 32 pixels, on 12 classes of photographs of flowers (720 to train
on, 240 to test), seeds 0, 1 and 2: 91.3, 92.1 and 91.7 %; as many epochs with everything trainable from the start 90.0,
92.5 and 92.5 %, with the head alone 61.3 % (seed 0). At rates of 0.3 and 0.1 in the second and third step, of 5 and 10
epochs, 81.7, 81.7 and 77.9 %. The ResNet-50 of this file has not been run here.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; there are no variants."""
    c = lib.default()
    c.train.monitor = "accuracy"
    lib.choose_variant(variant, {"": None})
    c.data.source = "tfds:oxford_flowers102"
    c.model.name = "resnet50"
    c.model.weights = "pretrained"
    c.augment.scale = (0.5, 1.0)
    c.finetune.stages = (
        {"epochs": 2, "unfreeze": "head"},
        {"epochs": 3, "unfreeze": 3},
        # Weights that know images like yours want less here: "rate": 0.1.
        {"epochs": 15, "unfreeze": "all"},
    )
    c.finetune.head_start = "zeros"  # The first stage teaches it.
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_steps = 10
    c.train.label_smoothing = 0.1
    c.train.batch_size = 32
    c.train.check_learning_rate = True
    return c
