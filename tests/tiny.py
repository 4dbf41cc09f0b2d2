"""An experiment on a network of 51 parameters: what surrounds a model is tested in the time that it takes itself."""

import dataclasses

import flax.linen as nn
import numpy as np

from jaxtl import config as config_lib
from jaxtl.data import Dataset, Splits
from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.model import Model
from jaxtl.experiment.training_plan import make_plan
from jaxtl.models.base import GroupedModel, classify
from jaxtl.preprocessing import Pixels

CLASSES = ("red", "green", "blue")
# FLOP of one image by hand: two for each product of the kernels 3 x 4, 4 x 4 and 4 x 3.
STEM, BODY, HEAD = 2 * 3 * 4, 2 * 4 * 4, 2 * 4 * 3


class Tiny(GroupedModel):
    """Three dense layers on the mean colour of an image."""

    num_classes: int = 3
    image_size: int = 4

    def groups(self):
        return (("stem", "stem"), ("body", "body"), ("head", "head"))

    def run_group(self, x, name, train):
        if name == "stem":
            return nn.Dense(4, name="stem")(x.mean((1, 2)))
        return nn.tanh(nn.Dense(4, name="body")(x)) if name == "body" else classify(x, self.num_classes, train=train)


def config(**keys):
    """Returns the defaults with eight images a step, a few changes, and the keys given as section__name=value."""
    c = config_lib.default()
    c.data.source, c.model.name = "memory", "tiny"
    c.train.batch_size, c.train.steps, c.train.log_every, c.train.monitor = 8, 3, 1, "accuracy"
    c.optimizer.learning_rate, c.optimizer.warmup_steps = 0.1, 0
    for key, value in keys.items():
        section, name = key.split("__")
        c[section][name] = value
    return c


def still(**keys):
    """Returns such a config in which each view of an image is the same."""
    return config(augment__crop="none", augment__flip=0.0, **keys)


def dataset(name, count, seed):
    """Noisy images of 4 x 4 pixels in memory; label i % 3 says which channel is the brightest."""
    labels = np.arange(count, dtype=np.int32) % 3
    images = np.random.default_rng(seed).integers(0, 120, (count, 4, 4, 3), dtype=np.uint8)
    images[np.arange(count), ..., labels] += 100
    return Dataset(CLASSES, labels, tuple(f"{name}{i}" for i in range(count)), images.__getitem__)


def draw_variables():
    """Draws the variables of the network; a new head is zero."""
    generator = np.random.default_rng(3)

    def layer(rows, columns, scale):
        kernel = generator.normal(0, scale, (rows, columns)).astype(np.float32)
        return {"kernel": kernel, "bias": np.zeros(columns, np.float32)}

    return {"params": {"stem": layer(3, 4, 0.5), "body": layer(4, 4, 0.5), "head": layer(4, 3, 0.0)}}


def experiment(config):
    """Builds the experiment of such a config, on 24 images to train, 6 to validate and 6 to test."""
    module, variables = Tiny(), draw_variables()
    model = Model("tiny", module, CLASSES, Pixels(4, 4, (0.5,) * 3, (0.5,) * 3, "bilinear"), None)
    splits = Splits(dataset("train", 24, 0), dataset("val", 6, 1), dataset("test", 6, 2), ())
    plan = make_plan(config, module, variables["params"], steps_per_epoch=24 / config.train.batch_size, new_head=True)
    return Experiment(config, model, variables, None, splits, "memory", plan, options.partitioner(config))


def with_split(experiment, split, **fields):
    """Returns the experiment with fields of a split replaced."""
    changed = dataclasses.replace(getattr(experiment.splits, split), **fields)
    return dataclasses.replace(experiment, splits=dataclasses.replace(experiment.splits, **{split: changed}))


def logits(variables, images):
    """Computes by hand what the network makes of images uint8 [B, 4, 4, 3]; [B, 3]."""
    params = variables["params"]
    x = (np.asarray(images, np.float64) / 127.5 - 1.0).mean((1, 2))
    x = features(params, x)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def features(params, means):
    """Computes by hand what the groups before the head make of mean colours [B, 3]; [B, 4]."""
    x = means @ params["stem"]["kernel"] + params["stem"]["bias"]
    return np.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
