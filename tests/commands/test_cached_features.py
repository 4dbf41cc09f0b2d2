"""Training on cached features is training on images, without the time."""

import json
import shutil

import numpy as np
import pytest

from jaxtl.checkpoints.manager import read_best
from jaxtl.trees import flatten

# Whole runs, several for each test.
pytestmark = pytest.mark.slow

PLAIN = ("--config.augment.crop=none", "--config.augment.flip=0", "--config.finetune.unfreeze=1")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize(
    "flags",
    [
        ("--config.model.dropout=0.2", "--config.optimizer.clip_norm=1.0", "--config.train.accumulate=2"),
        ("--config.model.name=resnet20_cifar", "--config.model.drop_path=0.0"),
    ],
    ids=["vit", "resnet"],
)
def test_losses_are_those_of_an_uncached_run(train, tmp_path, parallel, flags):
    if "dropout" in flags[0] and parallel == "pmap":
        pytest.skip("each device of pmap draws its own dropout, cached or not; one partitioner is enough for it")
    common = (*PLAIN, *flags, f"--config.train.parallel={parallel}", "--config.optimizer.name=sgd")
    status, out, err = train(*common, workdir="cached")
    assert (status, err) == (0, "")
    assert "are frozen and computed once for each image" in out
    status, out, _ = train(*common, "--config.finetune.cache_features=off", workdir="plain")
    assert status == 0
    assert "computed once" not in out
    cached, plain = tmp_path / "cached", tmp_path / "plain"
    for ours, theirs in zip(lines(cached), lines(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    one, two = results(cached), results(plain)
    assert one["best_step"] == two["best_step"]
    assert one["parameters"] == two["parameters"]
    assert one["test"]["confusion_matrix"] == two["test"]["confusion_matrix"]
    ours, theirs = flatten(read_best(cached)[1]), flatten(read_best(plain)[1])
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], atol=1e-5, err_msg=path)


def test_as_many_views_as_epochs_are_the_augmentation_itself(train, tmp_path):
    flags = ("--config.finetune.unfreeze=head", "--config.train.steps=14", "--config.train.eval_every=7")
    train(*flags, "--config.finetune.cache_views=3", workdir="cached")  # 54 images in batches of 8: 14 steps are 2.1.
    train(*flags, "--config.finetune.cache_features=off", workdir="plain")
    for ours, theirs in zip(lines(tmp_path / "cached"), lines(tmp_path / "plain"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


def test_augmentation_is_not_given_up_unasked(train):
    status, out, _ = train("--config.finetune.unfreeze=head")
    assert status == 0
    assert "are frozen, but computed in every step: augmentation shows another view each time" in out


def test_on_disk_features_are_found_again_by_another_run(train, tmp_path):
    flags = (*PLAIN, f"--config.finetune.cache_dir={tmp_path / 'cache'}")
    status, out, err = train(*flags, workdir="first")
    assert (status, err) == (0, "")
    assert "go to disk: finetune.cache_dir is set" in out
    _, out, _ = train(*flags, workdir="second")
    assert "are in " in out
    assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == (tmp_path / "second" / "metrics.jsonl").read_bytes()
    _, out, _ = train(*PLAIN, workdir="memory")
    assert "fit into memory" in out
    assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == (tmp_path / "memory" / "metrics.jsonl").read_bytes()


def test_without_memory_features_lie_in_the_workdir_until_the_end(train, tmp_path):
    status, out, err = train(*PLAIN, "--config.data.cache_gib=0")
    assert (status, err) == (0, "")
    assert "go to disk: 0 MiB of memory (data.cache_gib) are few" in out
    assert not (tmp_path / "run" / "features").exists()


def test_a_cached_run_that_lost_its_last_steps_takes_them_again_to_the_same_end(train, tmp_path):
    train(*PLAIN, workdir="whole")
    train(*PLAIN, workdir="broken")
    broken = tmp_path / "broken"
    (broken / "results.json").unlink()
    shutil.rmtree(broken / "checkpoints" / "12")
    status, out, _ = train(*PLAIN, workdir="broken")
    assert status == 0
    assert "continues at step 8" in out
    assert (broken / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_on_is_refused_where_nothing_is_frozen(train):
    status, _, err = train("--config.finetune.cache_features=on")
    assert status == 1
    assert 'finetune.cache_features is "on", but the first group trains' in err
    status, _, err = train("--config.finetune.cache_features=maybe", "--config.finetune.cache_views=0", workdir="other")
    assert status == 1
    assert "finetune.cache_features is 'maybe', but it must be one of: 'auto', 'on', 'off'." in err
    assert "finetune.cache_views is 0, but it must be 1 or more." in err
