"""A small network to be deployed: MobileNet V3 on photographs of your own, in folders.

    python -m jaxtl.main --config=configs/mobilenet_v3_edge.py --workdir=runs/edge --config.data.source=folder:DIR
    python -m jaxtl.main --config=configs/mobilenet_v3_edge.py:small --workdir=runs/edge --config.data.source=folder:DIR

"" is the large one (5.5 million parameters with ImageNet's head, 0.44 GFLOP an image), small has 2.5 million and 0.11
GFLOP. The head learns first, then everything at a tenth of its rate.

No ImageNet weights of it were at hand, so this shows only that the recipe learns: a small one pretrained here on eight
classes of a CIFAR-10 subset (3,705 images of 32 pixels, 15 epochs, to 51.2 % of 826), then fine-tuned on 871 cats and
dogs of that subset at 32 pixels, with 97 to validate and 191 to test, seeds 0, 1 and 2: 67.0, 65.4 and 61.8 %.
"""

from ml_collections import ConfigDict

from jaxtl import config as lib

VARIANTS = {"": "mobilenet_v3_large", "small": "mobilenet_v3_small"}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "" or "small"."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.model.name = lib.choose_variant(variant, VARIANTS)
    c.model.weights = "pretrained"
    c.data.source = "tfds:oxford_flowers102"
    c.model.dropout = 0.2
    c.augment.scale = (0.35, 1.0)
    c.augment.color_jitter = 0.2
    c.finetune.stages = (
        {"epochs": 3, "unfreeze": "head"},
        {"epochs": 12, "unfreeze": "all", "rate": 0.1},
    )
    c.optimizer.learning_rate = 5e-3
    c.optimizer.weight_decay = 0.02
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 64
    return c
