"""What "auto" stands for: values by the number of images, weights, batch and what trains, each with its reason."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny

from jaxtl import config as config_lib
from jaxtl.data.dataset import Dataset
from jaxtl.errors import UserError
from jaxtl.experiment.auto import Facts, facts_of, resolve

VIT = Facts(images=720, classes=12, pretrained=True, batch_norm=False)
RESNET = Facts(images=720, classes=12, pretrained=True, batch_norm=True)
SMALL = replace(VIT, size=64)
ASKED = {"data.source": "folder:x", "model.name": "vit_ti16"}
RANDOM = Facts(images=720, classes=12, pretrained=False, batch_norm=False)


def left_to_rules(**keys):
    """The defaults with all four keys left to rules, in place of the network's."""
    values = {"optimizer__learning_rate": "auto", "train__epochs": "auto", "train__steps": 0}
    return tiny.config(**{**values, "finetune__unfreeze": "auto", "augment__preset": "auto", **keys})


@pytest.mark.parametrize(
    ("facts", "keys", "rate"),
    [
        (VIT, {}, 2e-4),
        (VIT, {"finetune__layer_decay": 0.8}, 5e-4),
        (VIT, {"train__batch_size": 128}, 4e-4),
        (VIT, {"optimizer__name": "sgd", "train__batch_size": 128}, 0.02),
        (VIT, {"finetune__unfreeze": "head"}, 1e-3),
        (VIT, {"finetune__unfreeze": "head", "optimizer__name": "sgd", "train__batch_size": 256}, 0.1),
        (RESNET, {}, 5e-4),
        (RANDOM, {}, 1e-3),
        (RANDOM, {"optimizer__name": "sgd", "train__batch_size": 512}, 0.2),
    ],
)
def test_the_rate(facts, keys, rate):
    config, notes = resolve(
        left_to_rules(train__batch_size=32) if not keys else left_to_rules(**{"train__batch_size": 32, **keys}), facts
    )
    assert config.optimizer.learning_rate == rate
    assert f"optimizer.learning_rate is {rate:g}: " in "\n".join(notes)


@pytest.mark.parametrize(
    ("facts", "unfreeze", "decay", "rate"),
    [
        (VIT, "all", 0.85, 5e-4),
        (VIT, "3", 0.85, 5e-4),
        (VIT, "head", 1.0, 1e-3),
        (RESNET, "all", 1.0, 5e-4),
        (RANDOM, "all", 1.0, 1e-3),
    ],
)
def test_the_decay_of_rates_by_depth_and_the_rate_that_goes_with_it(facts, unfreeze, decay, rate):
    given = left_to_rules(finetune__layer_decay="auto", finetune__unfreeze=unfreeze, train__batch_size=32)
    config, notes = resolve(given, facts)
    assert (config.finetune.layer_decay, config.optimizer.learning_rate) == (decay, rate)
    assert any(note.startswith(f"finetune.layer_decay is {decay:g}: ") for note in notes)


@pytest.mark.parametrize(
    ("images", "pretrained", "unfreeze", "epochs"),
    [
        (720, True, "all", 8),
        (300, True, "all", 20),
        (10, True, "all", 100),
        (10**6, True, "all", 6),
        (720, True, "head", 8),
        (10**6, False, "all", 30),
        (1000, False, "all", 30),
        (20, False, "all", 300),
    ],
)
def test_the_length(images, pretrained, unfreeze, epochs):
    config, _ = resolve(left_to_rules(finetune__unfreeze=unfreeze), Facts(images, 2, pretrained, False))
    assert config.train.epochs == epochs


@pytest.mark.parametrize(
    ("images", "pretrained", "chosen"), [(59, True, "head"), (60, True, "all"), (59, False, "all")]
)
def test_what_trains(images, pretrained, chosen):
    assert resolve(left_to_rules(), Facts(images, 12, pretrained, False))[0].finetune.unfreeze == chosen


@pytest.mark.parametrize(
    ("facts", "unfreeze", "preset"),
    [
        (VIT, "all", "light"),
        (replace(VIT, size=65), "all", "light"),
        (SMALL, "all", "small_images"),
        (SMALL, "head", "none"),
        (replace(RANDOM, size=64), "all", "medium"),
    ],
)
def test_the_augmentation(facts, unfreeze, preset):
    config, notes = resolve(left_to_rules(finetune__unfreeze=unfreeze), facts)
    assert config.augment.preset == preset
    assert any(note.startswith(f"augment.preset is {preset!r}: ") for note in notes)


@pytest.mark.parametrize("own", [{"scale": (0.5, 1.0)}, {"ratio": (1.0, 1.0)}, {"crop": "none"}])
def test_crops_of_ones_own_are_kept_on_small_images(own):
    config, _ = resolve(left_to_rules(**{f"augment__{key}": value for key, value in own.items()}), SMALL)
    assert config.augment.preset == "light"
    assert {key: config.augment[key] for key in own} == own


def test_crops_of_the_defaults_that_are_asked_for_are_kept_on_small_images():
    given = config_lib.override(config_lib.default(), {**ASKED, "augment.preset": "auto", "augment.scale": "0.25,1"})
    assert resolve(given, SMALL)[0].augment.preset == "light except scale"
    given = config_lib.override(config_lib.default(), {**ASKED, "augment.preset": "auto", "augment.flip": "0.3"})
    assert resolve(given, SMALL)[0].augment.preset == "small_images"


def pictures(*shapes):
    """A set of images of these heights and widths; 0 by 0 is a broken file."""
    images = [np.zeros((*shape, 3), np.uint8) if shape[0] else b"no image" for shape in shapes]
    names = [str(i) for i in range(len(images))]
    return Dataset(classes=("a", "b"), labels=np.zeros(len(images), np.int32), names=names, read=lambda i: images[i])


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(20, 64), (20, 65)], 65),
        ([(0, 0), (40, 30)], 40),
        ([(2, 3)], 4),
        ([(0, 0)], 4),
        ([(8, 8)] * 5 + [(99, 9)], 8),
    ],
)
def test_the_size_is_that_of_the_first_images_or_of_the_model(shapes, size):
    model = tiny.experiment(tiny.config()).model
    facts = facts_of(left_to_rules(), model, pretrained=True, train=pictures(*shapes), batch=4, val=3)
    assert facts == Facts(len(shapes), 2, True, False, batch_size=4, validation=3, size=size)


def test_without_images_or_auto_no_size_is_looked_for():
    model = tiny.experiment(tiny.config()).model

    def read(i):
        raise AssertionError("an image is read")

    train = replace(pictures((8, 8)), read=read)
    assert facts_of(tiny.config(), model, pretrained=True, train=train).size == 0
    assert facts_of(left_to_rules(), model, pretrained=True) == Facts(0, len(model.classes), True, False)


def test_a_value_beside_the_preset_stays():
    overrides = {**ASKED, "augment.preset": "auto", "augment.rotate": "0", "train.epochs": "auto"}
    config = config_lib.override(tiny.config(augment__rotate=5.0), overrides)
    assert resolve(config, RANDOM)[0].augment.preset == "medium except rotate"


def test_what_is_given_stays_and_is_not_told():
    given = tiny.config(train__epochs="auto")  # Its steps say how long.
    config, notes = resolve(given, VIT)
    assert (config.optimizer.learning_rate, config.train.steps, config.train.epochs, notes) == (0.1, 3, 0.0, ())
    assert given.train.epochs == "auto"
    stages = ({"epochs": 1, "unfreeze": "head"},)
    assert resolve(left_to_rules(finetune__stages=stages), VIT)[0].train.epochs == 0.0


@pytest.mark.parametrize("key", ["finetune.layer_decay", "optimizer.learning_rate", "train.epochs"])
def test_another_word_is_refused(key):
    with pytest.raises(UserError, match=rf"config.{key} is 'atuo', but it must be a number, such as .*, or \"auto\""):
        config_lib.override(config_lib.default(), {key: "atuo"})


def test_defaults_are_sound_and_left_to_rules():
    config = config_lib.override(config_lib.default(), {"data.source": "folder:x"})
    assert (config.optimizer.learning_rate, config.train.epochs) == ("auto", "auto")
    assert json.loads(json.dumps(config_lib.to_dict(config)))["train"]["epochs"] == "auto"


def test_the_rate_goes_by_the_batch_that_is_left():
    config, _ = resolve(left_to_rules(train__batch_size=256), Facts(90, 3, True, False, batch_size=90))
    assert config.optimizer.learning_rate == 3.4e-4


STAGES = ({"steps": 16, "unfreeze": "head"}, {"steps": 64, "unfreeze": "all"})


@pytest.mark.parametrize(
    ("images", "keys", "warmup"),
    [
        (640, {}, 22),  # 9 epochs of 20 steps.
        (640, {"train__steps": 33}, 4),
        (10**6, {}, 500),
        (7, {"train__steps": 5}, 0),
        (640, {"finetune__stages": STAGES, "finetune__restart_schedule": False}, 10),
        (640, {"finetune__stages": STAGES}, 2),
        (0, {}, 500),
        (0, {"train__steps": 80}, 10),
        (640, {"optimizer__warmup_steps": 3}, 3),
    ],
)
def test_the_warmup(images, keys, warmup):
    given = {"optimizer__warmup_steps": "auto", "train__batch_size": 32, **keys}
    config, notes = resolve(left_to_rules(**given), Facts(images, 12, True, False, min(32, images)))
    assert config.optimizer.warmup_steps == warmup
    assert ("optimizer.warmup_steps" in "\n".join(notes)) == (given["optimizer__warmup_steps"] == "auto")


@pytest.mark.parametrize(
    ("validation", "keys", "monitor"),
    [
        (73, {}, "last"),
        (199, {}, "last"),
        (200, {}, "accuracy"),
        (0, {}, "accuracy"),  # Not at hand.
        (73, {"train__patience": 3}, "loss"),
        (73, {"optimizer__schedule": "constant"}, "loss"),
        (73, {"optimizer__end_factor": 0.1}, "loss"),
        (73, {"train__steps": 49}, "loss"),  # Too few for the last to be sure to be good.
        (73, {"train__steps": 50}, "last"),
        (73, {"train__monitor": "f1"}, "f1"),
    ],
)
def test_what_decides_which_checkpoint_is_best(validation, keys, monitor):
    given = {"train__monitor": "auto", "train__batch_size": 32, **keys}
    config, notes = resolve(left_to_rules(**given), Facts(720, 12, True, False, 32, validation))
    assert config.train.monitor == monitor
    assert ("train.monitor" in "\n".join(notes)) == (given["train__monitor"] == "auto")
