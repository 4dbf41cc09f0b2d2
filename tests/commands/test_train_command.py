import json
import re
import shutil

import jax
import numpy as np
import pytest

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.data.reader_processes import ReaderStream
from jaxtl.train import loop
from jaxtl.trees import flatten


@pytest.fixture
def finished(plain, own_pixels, _pictures, tmp_path):
    """A run that is over lies in `run`; gives the flags with which it was trained."""
    shutil.copytree(plain / "run", tmp_path / "run")
    return f"--config.data.source=folder:{_pictures}", *own_pixels


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_the_interface_promises(plain):
    # Its status is 0, and there is nothing that it complains of.
    assert "6 examples of train (train[90%:]) serve as one" in (plain / "printed").read_text()
    run = plain / "run"
    assert {path.name for path in run.iterdir()} == {
        "calibration.json",
        "data.json",
        "environment.json",
        "groups.json",
        "checkpoints",
        "config.json",
        "events",
        "inputs.json",
        "metrics.jsonl",
        "features.json",
        "model.json",
        "predictions.npz",
        "results.json",
        "weight_decay.json",
    }
    results = json.loads((run / "results.json").read_text())
    assert results["classes"] == ["blue", "green", "red"]
    assert results["parameters"]["total"] == results["parameters"]["trainable"]
    assert results["steps"] == 12
    assert results["best_step"] in (4, 8, 12)
    parts = {"start", "features", "compile", "train", "evaluate", "checkpoint"}
    assert set(results["seconds"]) == {"total", "data"} | parts
    assert sum(results["seconds"][part] for part in parts) == pytest.approx(results["seconds"]["total"], abs=0.1)
    assert 0 <= results["seconds"]["data"] <= results["seconds"]["train"]
    assert results["train"]["images_per_second"] > 0
    test = results["test"]
    assert test["count"] == 18
    assert np.sum(test["confusion_matrix"]) == 18
    assert test["accuracy"] == np.trace(test["confusion_matrix"]) / 18
    assert [test["per_class"][name]["count"] for name in ("blue", "green", "red")] == [6, 6, 6]

    val = {line["step"]: line["accuracy"] for line in lines(run) if line["split"] == "val"}
    assert sorted(val) == [4, 8, 12]
    assert results["val"]["accuracy"] == max(val.values()) == val[results["best_step"]]
    # Lines every 3 steps, and one before each checkpoint.
    assert [line["step"] for line in lines(run) if line["split"] == "train"] == [3, 4, 6, 8, 9, 12]
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == sorted({results["best_step"], 8, 12})
        assert checkpoints.best() == results["best_step"]


@pytest.mark.slow
def test_started_again_a_finished_run_says_so_and_changes_nothing(train, finished, tmp_path):
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes(), (tmp_path / "run" / "results.json").read_bytes()
    status, out, _ = train(*finished)
    assert status == 0
    assert "finished already" in out
    assert before == (
        (tmp_path / "run" / "metrics.jsonl").read_bytes(),
        (tmp_path / "run" / "results.json").read_bytes(),
    )


@pytest.mark.slow
def test_reader_processes_give_the_run_that_threads_give(train, tmp_path, monkeypatch):
    filled, fill = [], ReaderStream.fill
    monkeypatch.setattr(ReaderStream, "fill", lambda self, *arguments: filled.append(fill(self, *arguments)))
    flags = ("--config.data.workers=2", "--config.augment.crop=random_resized", "--config.finetune.cache_features=off")
    assert train(*flags, "--config.data.reader=threads", workdir="a")[0] == 0
    assert not filled
    assert train(*flags, "--config.data.reader=processes", workdir="b")[0] == 0
    assert filled
    a, b = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(train, plain, own_pixels, tmp_path):
    train(*own_pixels, workdir="b")
    train(*own_pixels, "--config.train.seed=1", workdir="c")
    a, b, c = ((run / "metrics.jsonl").read_bytes() for run in (plain / "run", tmp_path / "b", tmp_path / "c"))
    assert a == b
    assert a != c


@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_head_only_moves_the_head_only(train, plain, tmp_path, parallel):
    first = plain / "run"
    status, out, err = train(
        f"--config.model.weights=run:{first}",
        "--config.train.steps=4",
        "--config.finetune.unfreeze=head",
        f"--config.train.parallel={parallel}",
        "--config.train.label_smoothing=0.1",
        "--config.optimizer.clip_norm=1.0",
    )
    assert (status, err) == (0, "")
    assert "kept: 3 classes" in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["parameters"]["trainable"] == 16 * 3 + 3
    before = flatten(read_best(first)[1]["params"])
    after = flatten(read_best(tmp_path / "run")[1]["params"])
    changed = [path for path in before if not np.array_equal(before[path], after[path])]
    assert sorted(changed) == ["head/bias", "head/kernel"]


@pytest.mark.slow
def test_a_new_head_trains_even_if_it_was_not_named(train):
    status, out, _ = train("--config.finetune.unfreeze=bias")
    assert status == 0
    assert "leaves out the head, which is new: it trains too" in out


@pytest.mark.slow
def test_patience_stops_early(train, tmp_path):
    # A rate that changes nothing: the first evaluation stays the best.
    flags = ("--config.optimizer.learning_rate=1e-30", "--config.train.monitor=loss", "--config.train.patience=2")
    train(*flags, "--config.train.steps=40")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["steps"], results["best_step"]) == (12, 4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(train, tmp_path):
    status, _, err = train("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e25")
    assert status == 1
    assert re.match(r"error: the (loss|norm of the gradient) is (nan|inf) at step \d+; ", err)
    assert "Lower the learning_rate" in err
    assert not (tmp_path / "run" / "results.json").exists()
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run"))


@pytest.mark.slow
def test_it_keeps_the_last_good_checkpoint_when_the_loss_diverges_later(train, tmp_path):
    # A schedule that jumps up after the first checkpoint.
    status, _, err = train(
        "--config.optimizer.name=sgd",
        "--config.optimizer.learning_rate=1e-3",
        "--config.optimizer.schedule=step",
        "--config.optimizer.boundaries=0.5",
        "--config.optimizer.factor=1e30",
    )
    assert status == 1
    assert "the last good checkpoint is step 4" in err
    step, variables = read_best(tmp_path / "run")
    assert step == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
def test_stopped_before_its_first_checkpoint_it_says_that_it_begins_again(train, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", interrupted)
        assert train()[0] == 130
    status, out, _ = train()
    assert status == 0
    assert "stopped before its first checkpoint was whole: begins again" in out


@pytest.mark.slow
def test_steps_that_are_left_out_have_lines_too(train, tmp_path):
    # A factor that no gradient survives in float16 but the first one, where the new head is zero; halved at each step,
    # it is still too large after all of them.
    status, _, err = train("--config.train.precision=float16", "--config.train.loss_scale=1e30")
    assert (status, err) == (0, "")
    first, *others = [line for line in lines(tmp_path / "run") if line["split"] == "train"]
    assert (first["step"], first["skipped"]) == (3, 2)
    assert [(line["step"], line["skipped"]) for line in others] == [(4, 1), (6, 2), (8, 2), (9, 1), (12, 3)]
    assert all(set(line) == {"step", "split", "learning_rate", "skipped"} for line in others)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["train"]["loss"], results["train"]["skipped"]) == (first["loss"], 11)


@pytest.mark.slow
def test_changed_config_on_the_same_workdir_is_refused(train, finished):
    flags = ("--config.train.seed=1", "--config.data.workers=1", "--config.data.reader=processes")
    status, _, err = train(*finished, *flags)
    assert status == 1
    assert "train.seed: 0 -> 1" in err
    assert "workers" not in err
    assert "reader" not in err
