import numpy as np
import pytest
from PIL import Image

from jaxtl import config as config_lib


@pytest.fixture
def config(tmp_path):
    """A tiny ViT on three classes of pictures, told apart by their colour: 24 to train, 6 to validate, 6 to test."""
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for number, color in enumerate(("red", "green", "blue")):
            folder = tmp_path / "pictures" / split / color
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([number, i, len(split)]).integers(0, 120, (20, 20, 3), dtype=np.uint8)
                pixels[..., number] += 120
                Image.fromarray(pixels).save(folder / f"{split}{i}.png")
    c = config_lib.default()
    c.data.source = f"folder:{tmp_path / 'pictures'}"
    c.model.name = "vit_petals:depth=2,width=16,heads=2,patch=8"
    c.model.image_size = 16
    c.train.batch_size = 8
    c.optimizer.warmup_steps = 0
    c.train.monitor = "accuracy"
    c.train.steps = 3
    c.train.log_every = 1
    c.optimizer.learning_rate = 0.01
    return c
