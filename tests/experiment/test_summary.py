import dataclasses

import numpy as np
import pytest
import tiny

from jaxtl.data import Dataset, Splits
from jaxtl.experiment.build import build
from jaxtl.experiment.summary import opening_lines, saved_work, split_sizes, trained_groups


def examples(classes, labels):
    return Dataset(classes, np.asarray(labels, np.int32), tuple(map(str, labels)), lambda index: (index, 0))


def test_the_opening_of_a_run_from_nothing(config):
    source = config.data.source
    lines = opening_lines(build(config))
    assert lines.pop(3).startswith("note      6 images choose the best checkpoint: ")
    assert lines == [
        "weights   none: vit_petals:depth=2,width=16,heads=2,patch=8 starts from random numbers",
        "images    16 x 16 pixels, normalised by default",
        f"data      {source}: 24 to train, 6 to validate, 6 to test (2 blue, 2 green, 2 red)",
        "training  everything of vit_petals:depth=2,width=16,heads=2,patch=8: 9,827 of 9,827 parameters",
        "schedule  3 steps of 8 images (1 epochs); adamw, learning rate 0.01, cosine",
    ]


def test_sizes_of_splits():
    train, val = examples(("ants", "bees"), [0, 1, 1]), examples(("ants", "bees"), [1])
    assert split_sizes(Splits(train, val, None, ())) == "3 to train, 1 to validate, none to test (0 ants, 1 bees)"
    many = examples(tuple("abcd"), [0, 1, 2, 3])
    assert split_sizes(Splits(many, many, many, ())) == "4 to train, 4 to validate, 4 to test; 4 classes"


@pytest.mark.parametrize(
    ("unfreeze", "words"),
    [
        ("all", "everything"),
        ("head", "the head"),
        ("1", "block1, head"),
        ("2", "block0 to head"),
        ("embed,head", "embed, head"),
        ("biases", "parts of embed to head"),
    ],
)
def test_what_trains_in_words(config, unfreeze, words):
    config.finetune.unfreeze = unfreeze
    assert trained_groups(build(config, abstract=True).plan) == words


def test_what_freezing_saves_in_words(config):
    config.finetune.unfreeze = "head"
    plan = build(config, abstract=True).plan
    (stage,) = plan.stages
    words = saved_work({"step_gflop": 1.0, "full_gflop": 3.0}, plan, stage)
    assert words == "what is frozen is not differentiated: a step computes 33 % of what training everything would"
    assert "computes less than 1 % of" in saved_work({"step_gflop": 0.001, "full_gflop": 3.0}, plan, stage)
    everything = dataclasses.replace(stage, since=dict.fromkeys(plan.assignment, 0))
    assert saved_work({"step_gflop": 1.0, "full_gflop": 3.0}, plan, everything) == ""


def test_what_is_worth_a_word(config):
    experiment = build(config)
    lopsided = examples(("ants", "bees"), [0] * 3 + [1] * 30)
    experiment = dataclasses.replace(experiment, splits=Splits(lopsided, lopsided, None, ()))
    note = "note      3 images of ants against 30 of bees: --config.train.class_weights=balanced weighs them alike"
    assert note in opening_lines(experiment)
    sampled = dataclasses.replace(lopsided, sampling="balanced")
    lines = opening_lines(dataclasses.replace(experiment, splits=Splits(sampled, lopsided, None, ())))
    assert note not in lines
    assert "sampling  balanced: an epoch shows an image of ants 5.67 times, one of bees 0.533 times" in lines
    experiment.config.train.class_weights = "balanced"
    assert note not in opening_lines(experiment)
    experiment.config.finetune.unfreeze = "head"
    assert "note      what is frozen is random and stays so: give weights, or train everything" in opening_lines(
        build(experiment.config)
    )


def test_a_preset_says_what_it_sets():
    given = tiny.experiment(tiny.config(augment__preset="light", augment__color_jitter=0.3))
    lines = opening_lines(given)
    assert "augment   light sets scale 0.25 to 1; as written stay color_jitter 0.3" in lines
    assert not any(line.startswith("augment") for line in opening_lines(tiny.experiment(tiny.config())))
