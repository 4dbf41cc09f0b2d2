"""Heads through the commands: Flatten, a dense layer and one logit on frozen maps, as tutorials begin."""

import json
import shutil

import numpy as np
import pytest

from jaxtl.checkpoints.manager import read_best

# Whole runs.
pytestmark = pytest.mark.slow

HEAD = (
    "--config.model.name=vgg11:convs=1-1,width=8",
    "--config.model.pool=flatten",
    "--config.model.head_hidden=12",
    "--config.model.single_logit=true",
)
FROZEN = ("--config.finetune.unfreeze=head", "--config.augment.crop=none", "--config.augment.flip=0")


@pytest.fixture
def two_and_red(pictures, tmp_path):
    """The three classes."""
    return shutil.copytree(pictures, tmp_path / "three")


@pytest.fixture
def two(pictures, two_and_red):
    """Two of them: blue and green."""
    for split in ("train", "test"):
        shutil.rmtree(pictures / split / "red")
    return pictures


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_flatten_a_dense_layer_and_one_logit(train, jaxtl, two, two_and_red, config_file, tmp_path):
    status, out, err = train(*HEAD, *FROZEN, workdir="cached")
    assert (status, err) == (0, "")
    assert "are frozen and computed once for each image" in out
    status, out, _ = train(*HEAD, *FROZEN, "--config.finetune.cache_features=off", workdir="plain")
    assert status == 0
    cached, plain = tmp_path / "cached", tmp_path / "plain"
    for ours, theirs in zip(lines(cached), lines(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert lines(cached)[-1]["loss"] < 0.6
    facts = json.loads((cached / "model.json").read_text())
    assert facts["model"] == "vgg11:convs=1-1,width=8,head_pool=flatten,head_hidden=12,single_logit=true"
    assert (facts["num_classes"], facts["classes"]) == (2, ["blue", "green"])
    head = read_best(cached)[1]["params"]["head"]
    assert (head["hidden1"]["kernel"].shape, head["kernel"].shape) == ((4 * 4 * 16, 12), (12, 1))

    # The same command does nothing more; eval, without a word about the head, measures the same.
    status, out, _ = train(*HEAD, *FROZEN, workdir="cached")
    assert status == 0
    test = json.loads((cached / "results.json").read_text())["test"]
    flags = (f"--config={config_file}", f"--config.data.source=folder:{two}", "--config.model.name=auto")
    weights = f"--config.model.weights=run:{cached}"
    status, out, err = jaxtl("eval", *flags, weights, f"--workdir={tmp_path / 'eval'}")
    assert (status, err) == (0, "")
    again = json.loads((tmp_path / "eval" / "results.json").read_text())["test"]
    assert again["confusion_matrix"] == test["confusion_matrix"]
    assert again["loss"] == pytest.approx(test["loss"], abs=1e-5)

    status, out, _ = jaxtl("predict", f"--workdir={cached}", two / "test")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert np.mean([line["class"] in line["file"] for line in found]) == pytest.approx(test["accuracy"])
    assert all(len(line["top5"]) == 2 for line in found)
    assert found[0]["top5"][0]["probability"] + found[0]["top5"][1]["probability"] == pytest.approx(1, abs=2e-6)

    status, _, err = jaxtl("export", f"--workdir={cached}", "--format=timm", f"--output={tmp_path / 'timm'}")
    assert status == 1
    assert "It can be exported to jaxtl; " in err
    exported = tmp_path / "mine.safetensors"
    assert jaxtl("export", f"--workdir={cached}", f"--output={exported}")[0] == 0
    status, out, err = jaxtl(
        "eval", *flags, f"--config.model.weights={exported}", "--config.data.test=test", f"--workdir={tmp_path / 'e2'}"
    )
    assert (status, err) == (0, "")
    again = json.loads((tmp_path / "e2" / "results.json").read_text())["test"]
    assert again["loss"] == pytest.approx(test["loss"], abs=1e-5)

    # Three classes: a new head of the same form, but for its one logit.
    config, _, auto = flags
    status, out, err = jaxtl("describe", config, auto, weights, f"--config.data.source=folder:{two_and_red}")
    assert (status, err) == (0, "")
    assert "head          new: the weights have 2 classes, 3 are wanted" in out
    assert "params/head/hidden1/kernel [256, 12], params/head/kernel [12, 3]" in out


def test_it_goes_on_where_it_stopped(train, two, tmp_path):
    whole = (*HEAD, *FROZEN, "--config.model.dropout=0.3")
    assert train(*whole, workdir="whole")[0] == 0
    assert train(*whole, workdir="parted")[0] == 0
    last = sorted((tmp_path / "parted" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))[-1]
    shutil.rmtree(last)
    (tmp_path / "parted" / "results.json").unlink()
    status, out, err = train(*whole, workdir="parted")
    assert (status, err) == (0, "")
    assert "continues at step 8 of 12" in out
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parted" / "metrics.jsonl").read_text()


def test_one_logit_needs_two_classes_and_no_binary_loss(train):
    status, _, err = train(*HEAD)
    assert status == 1
    assert "one logit tells two classes apart, and there are 3" in err
    assert "config.model.single_logit" in err
    status, _, err = train(
        "--config.model.single_logit=true", "--config.train.loss=binary", "--config.model.head_hidden=12,x"
    )
    assert status == 1
    assert 'model.single_logit has the binary cross entropy of its logit already: give train.loss "softmax"' in err
    assert "model.head_hidden is '12,x'" in err


def test_a_size_below_the_least_is_refused_at_the_door(train):
    status, _, err = train("--config.model.name=inception_v3", "--config.model.image_size=64")
    assert status == 1
    assert "image_size 64 is below the least that inception_v3 takes, 75" in err
    status, _, err = train("--config.model.name=inception_v3", "--config.model.image_size=150")
    assert status == 1
    assert "image_size 150 is below the least that inception_v3 takes in training, 299" in err
