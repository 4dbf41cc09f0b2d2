"""Oxford-IIIT Pets, 37 breeds of cats and dogs: a ResNet-50 whose head learns first, then all of it.

    python -m jaxtl.main --config=configs/pets.py --workdir=runs/pets
    python -m jaxtl.main --config=configs/pets.py:vit --workdir=runs/pets_vit

"" is the ResNet-50 of the fastai course, vit a ViT-S/16. No weights of these networks were at hand, so others show
only that the recipe learns: "" with a ResNet-32 pretrained on CIFAR-10, at 32 pixels, on 12 classes of photographs of
flowers (720 images, 73 of them for validation; 240 to test), seeds 0, 1 and 2: 72.1, 68.8 and 70.4 %, where the linear
classifier that the head starts from had 72.6 % on val. vit with DeiT-Tiny on the same photographs, seed 0
alone: 95.0 %.

Published for a ResNet-50 with that course's own recipe, three epochs of the head and six of everything: 5.5 % error on
its validation images (github.com/fastai/fastbook, 05_pet_breeds.ipynb).

With images of your own: --config.data.source=folder:DIR
"""

from ml_collections import ConfigDict

from jaxtl import config as lib


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant: "" or "vit"."""
    c = lib.default()
    c.train.monitor = "accuracy"
    c.data.source = "tfds:oxford_iiit_pet"
    c.model.weights = "pretrained"
    c.augment.scale = (0.35, 1.0)
    c.optimizer.weight_decay = 0.01
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.train.batch_size = 64
    lib.choose_variant(variant, VARIANTS)(c)
    return c


def _resnet(c: ConfigDict) -> None:
    c.model.name = "resnet50"
    c.finetune.stages = (
        {"epochs": 1, "unfreeze": "head"},
        {"epochs": 5, "unfreeze": "all", "rate": 0.2},
    )
    # The lower the layer, the more of what it knows holds for pets too.
    c.finetune.layer_decay = 0.9
    c.optimizer.learning_rate = 3e-3


def _vit(c: ConfigDict) -> None:
    c.model.name = "vit_s16"
    c.finetune.stages = (
        {"epochs": 2, "unfreeze": "head"},
        {"epochs": 4, "unfreeze": "all", "rate": 0.0625},
    )
    c.finetune.layer_decay = 0.8
    c.model.drop_path = 0.1
    c.optimizer.learning_rate = 3e-3


VARIANTS = {"": _resnet, "vit": _vit}
