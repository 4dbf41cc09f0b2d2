"""A new head that starts from a linear classifier of the features: its arrays, its figure, and what keeps it."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from families import FAMILIES, FAST

from jaxtl import models
from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.errors import Stopped, UserError
from jaxtl.evaluate.probe import Linear, Split, fit_linear
from jaxtl.experiment.head_start import (
    begins_with_probe,
    is_comparable,
    is_linear,
    start_from_probe,
    why_zeros,
    with_head,
)
from jaxtl.experiment.input_pipeline import read_images
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end
from jaxtl.pretrained.report import LoadReport
from jaxtl.trees import flatten

FACTS = ("location", "revision", "license", "format", "key_mapping", "model", "pixels_from", "head")


def pretrained(experiment, initialised=("params/head/kernel", "params/head/bias")):
    """Returns the experiment as if its variables were loaded, but for these."""
    report = LoadReport(
        **dict.fromkeys(FACTS, ""),
        files=[],
        num_classes=0,
        classes=None,
        pixels=None,
        initialised=dict.fromkeys(initialised),
    )
    return dataclasses.replace(experiment, load_report=report)


def train(config, workdir, *, stop_at=0):
    workdir.mkdir(exist_ok=True)
    questions = itertools.count(1)
    experiment = start_run(pretrained(tiny.experiment(config)), workdir)
    return train_to_end(experiment, workdir, started=0.0, stop=lambda: next(questions) == stop_at)


def mean_colours(split):
    images = np.stack([split.read(i) for i in range(len(split))])
    return (images.astype(np.float64) / 127.5 - 1.0).mean((1, 2))


def expected_head(experiment):
    """Fits the classifier to features that are computed by hand."""
    params = experiment.variables["params"]
    train, val = (
        Split(tiny.features(params, mean_colours(split)).astype(np.float32), split.labels)
        for split in (experiment.splits.train, experiment.splits.val)
    )
    return fit_linear(train, val, num_classes=3)


def test_a_run_begins_with_the_classifier_that_fits_its_features_and_says_its_figure(tmp_path, capsys):
    results = train(tiny.still(train__steps=2, optimizer__learning_rate=1e-4), tmp_path / "run")
    expected = expected_head(tiny.experiment(tiny.still()))
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["split"] == "val")
    assert (first["step"], first["accuracy"]) == (0, expected.accuracy)
    assert first["loss"] == pytest.approx(expected.loss, rel=0.05)
    found = results["head_start"]
    assert (found["images"], found["penalty"], found["val"]["accuracy"]) == (24, expected.penalty, expected.accuracy)
    assert found["val"]["loss"] == pytest.approx(first["loss"], rel=0.02)
    assert "the head starts from a linear classifier of the features of 24 images" in capsys.readouterr().out


def test_where_training_makes_it_worse_the_classifier_is_kept(tmp_path):
    results = train(tiny.still(train__steps=2, optimizer__learning_rate=1e3), tmp_path / "run")
    assert results["best_step"] == 0
    step, variables = read_best(tmp_path / "run")
    expected = expected_head(tiny.experiment(tiny.still()))
    assert step == 0
    np.testing.assert_allclose(variables["params"]["head"]["kernel"], expected.kernel, rtol=0.02, atol=0.05)
    assert results["val"]["accuracy"] == results["head_start"]["val"]["accuracy"]


@pytest.mark.parametrize("question", [1, 2, 3])
def test_wherever_it_is_stopped_the_run_ends_as_one_that_was_not(tmp_path, question):
    config = tiny.config(train__steps=4, train__eval_every=2, train__ema_decay=0.5)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop_at=question)
    again = train(config, tmp_path / "run")
    assert {**again, "seconds": 0, "train": 0, "head_start": 0} == {
        **whole, "seconds": 0, "train": 0, "head_start": 0
    }  # fmt: skip
    one, other = (read_best(tmp_path / name)[1] for name in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_kept_features_are_those_that_are_computed(tmp_path):
    heads = []
    for cache in ("on", "off"):
        keys = {"finetune__unfreeze": "head", "finetune__cache_features": cache, "optimizer__learning_rate": 1e3}
        train(tiny.still(train__steps=1, **keys), tmp_path / cache)
        heads.append(read_best(tmp_path / cache)[1]["params"]["head"]["kernel"])
    np.testing.assert_allclose(*heads, rtol=1e-4, atol=1e-4)


def test_the_averages_begin_with_it_too(tmp_path):
    results = train(tiny.still(train__steps=1, train__ema_decay=0.9, optimizer__learning_rate=1e-6), tmp_path / "run")
    assert results["ema"]["ema"]["accuracy"] == results["head_start"]["val"]["accuracy"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"load_report": None}, "there are no pretrained weights"),
        ({"loss_name": "binary"}, 'the loss is "binary"'),
        ({"initialised": ()}, "the head of the weights is kept"),
    ],
)
def test_where_no_head_can_start_from_a_probe(change, reason):
    for mode in ("auto", "zeros", "probe"):
        experiment = tiny.experiment(tiny.config(finetune__head_start=mode))
        experiment = pretrained(experiment, **({"initialised": ()} if "initialised" in change else {}))
        experiment = dataclasses.replace(
            experiment, **{key: value for key, value in change.items() if key != "initialised"}
        )
        if mode == "probe":
            with pytest.raises(UserError, match=f'finetune.head_start is "probe", but {reason}.*: give "auto"'):
                begins_with_probe(experiment)
        else:
            assert not begins_with_probe(experiment)


@pytest.mark.parametrize(
    "keys",
    [{"train__label_smoothing": 0.1}, {"augment__mixup": 0.2}, {"augment__cutmix": 0.2}, {"train__loss": "focal"}],
)
def test_where_labels_are_soft_its_loss_chooses_nothing(tmp_path, keys):
    experiment = dataclasses.replace(tiny.experiment(tiny.config(**keys)), loss_name=keys.get("train__loss", "softmax"))
    assert not is_comparable(experiment)
    assert begins_with_probe(pretrained(experiment))


def test_a_run_with_soft_labels_is_not_kept_at_its_start(tmp_path):
    results = train(
        tiny.still(train__steps=2, train__label_smoothing=0.1, optimizer__learning_rate=1e3), tmp_path / "run"
    )
    assert results["best_step"] == 2
    assert "head_start" in results


def test_zeros_stay_where_they_are_asked_for(tmp_path):
    results = train(tiny.config(finetune__head_start="zeros", train__steps=1), tmp_path / "run")
    assert "head_start" not in results
    assert not (tmp_path / "run" / "head_start.json").exists()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in FAMILIES]
)
def test_the_logits_of_each_family_are_those_of_the_classifier(name, single):
    classes = 2 if single else 3
    least = models.build(name, num_classes=classes, image_size=models.native_size(name)).min_size
    size = 56 if name.startswith("dinov2") else max(least, 64)  # Its patches have 14 pixels.
    module = models.build(models.with_fields(name, single_logit=single), num_classes=classes, image_size=size)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    stop = [name for name, _ in module.groups() if "aux" not in name][-2]
    if not is_linear(module, variables, size):
        # Two heads of a distilled DeiT; a layer before MaxViT's last one.
        assert not single
        assert name in ("deit_ti16_distilled:depth=2", "maxvit_t:blocks=1-1")
        return
    features = np.asarray(module.apply(variables, images, stop=stop), np.float32)
    generator = np.random.default_rng(1)
    kernel, bias = generator.normal(size=(features.shape[1], classes)), generator.normal(size=classes)
    linear = Linear(kernel.astype(np.float32), bias.astype(np.float32), 0.0, 0.0, 0.0)
    logits = np.asarray(module.apply(with_head(variables, module, linear), images))
    expected = features @ kernel + bias
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-4 * scale)
    assert flatten(variables).keys() == flatten(with_head(variables, module, linear)).keys()


def test_an_attempt_that_came_to_nothing_leaves_no_start_behind(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "head_start.json").write_text("{}")
    results = train(tiny.config(finetune__head_start="zeros", train__steps=1), tmp_path / "run")
    assert "head_start" not in results
    assert not (tmp_path / "run" / "head_start.json").exists()


def test_killed_between_its_first_line_and_its_first_checkpoint_a_run_writes_that_line_once(tmp_path):
    config = tiny.config(train__steps=2)
    train(config, tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_bytes(lines.splitlines(keepends=True)[0])
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == lines


def test_features_in_half_precision_are_fitted_in_single():
    experiment = pretrained(tiny.experiment(tiny.still()))
    inputs = read_images(experiment)
    plain, _ = start_from_probe(experiment, inputs)
    params = experiment.variables["params"]
    halves = tuple(
        jnp.asarray(tiny.features(params, mean_colours(split)), jnp.bfloat16)
        for split in (experiment.splits.train, experiment.splits.val)
    )
    rounded, _ = start_from_probe(experiment, dataclasses.replace(inputs, kept=lambda group: halves))
    kernels = [np.asarray(each.variables["params"]["head"]["kernel"]) for each in (plain, rounded)]
    assert kernels[1].dtype == np.float32
    np.testing.assert_allclose(*kernels, atol=0.2 * np.abs(kernels[0]).max())


@pytest.mark.parametrize("keys", [{"train__class_weights": "balanced"}, {"train__sampling": "sqrt"}])
def test_what_weighs_classes_aims_at_another_figure(keys):
    assert not is_comparable(tiny.experiment(tiny.config(**keys)))


def test_a_head_that_no_probe_fits_says_why_it_starts_from_zeros(tmp_path, capsys):
    given = pretrained(tiny.experiment(tiny.config(train__steps=1)))
    binary = dataclasses.replace(given, loss_name="binary")
    assert why_zeros(given) == ""
    assert why_zeros(binary) == 'the loss is "binary", and a probe fits the cross entropy'
    assert why_zeros(dataclasses.replace(binary, load_report=None)) == ""  # No one expects one.
    zeros = tiny.config(finetune__head_start="zeros")
    assert why_zeros(dataclasses.replace(binary, config=zeros)) == ""  # It was asked for.
    (tmp_path / "run").mkdir()
    train_to_end(start_run(binary, tmp_path / "run"), tmp_path / "run", started=0.0, stop=lambda: False)
    assert (
        "the head starts from zeros, not from a linear classifier of the features: the loss" in capsys.readouterr().out
    )
