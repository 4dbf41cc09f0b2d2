"""A run from where it stands to its end, on a network of 51 parameters: its steps, its stages, and how it goes on."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxtl import data
from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.errors import Stopped
from jaxtl.experiment import options, steps
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end


def staged():
    """The config of two stages of two steps, each with an evaluation at its end."""
    stages = ({"steps": 2, "unfreeze": "head"}, {"steps": 2, "unfreeze": "all", "rate": 0.5})
    return tiny.config(finetune__stages=stages, train__eval_every=2)


def train(config, workdir, *, stop_at=0, without_test=False):
    """Starts a run, or goes on with it; `stop_at` says at which question it is told to stop."""
    workdir.mkdir(exist_ok=True)
    experiment = tiny.experiment(config)
    if without_test:
        experiment = dataclasses.replace(experiment, splits=dataclasses.replace(experiment.splits, test=None))
    questions = itertools.count(1)
    return train_to_end(start_run(experiment, workdir), workdir, started=0.0, stop=lambda: next(questions) == stop_at)


def newest(workdir):
    """Returns the last step that was saved and its variables."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.steps()[-1]
        return step, checkpoints.read_variables(step)


def assert_same_end(workdir, whole):
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    (step, ours), (last, theirs) = newest(workdir), newest(whole)
    assert step == last
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, whole))
    assert [found[key] for key in ("test", "best_step", "val")] == [
        expected[key] for key in ("test", "best_step", "val")
    ]


def by_hand(variables, split):
    """Returns the loss and the accuracy on a split."""
    rows = np.arange(len(split))
    logits = tiny.logits(variables, [split.read(i) for i in rows])
    losses = np.log(np.exp(logits).sum(1)) - logits[rows, split.labels]
    return losses.mean(), np.mean(logits.argmax(1) == split.labels)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two stages that nothing disturbed, not to be changed; `begun` copies it."""
    workdir = tmp_path_factory.mktemp("training") / "whole"
    train(staged(), workdir)
    return workdir


def test_a_run_is_its_steps_and_its_best_is_measured_on_test(tmp_path):
    config = tiny.config(train__steps=4, train__eval_every=2)
    results = train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    experiment = tiny.experiment(config)
    stage, augmentation = experiment.plan.stages[0], options.augmentation(config)
    optimizer = experiment.plan.make_optimizer(stage)
    step = jax.jit(steps.make_step(experiment, stage, optimizer))
    view = data.RandomView(experiment.model.pixels, augmentation)
    state = steps.make_state(experiment, stage, optimizer)
    for batch in itertools.islice(data.train_batches(experiment.splits.train, batch_size=8, seed=0, view=view), 4):
        state, scalars = step(state, batch)
    last, variables = newest(tmp_path / "run")
    assert last == results["steps"] == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), variables, dict(state.variables))
    assert results["train"]["loss"] == pytest.approx(float(scalars["loss"]), abs=1e-6)
    best, variables = read_best(tmp_path / "run")
    loss, accuracy = by_hand(variables, experiment.splits.test)
    assert (results["best_step"], results["test"]["count"]) == (best, 6)
    assert (results["test"]["loss"], results["test"]["accuracy"]) == (pytest.approx(loss, rel=1e-5), accuracy)
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        for name in ("val", "test"):
            split = getattr(experiment.splits, name)
            assert arrays[f"{name}_names"].tolist() == list(split.names)
            assert arrays[f"{name}_labels"].tolist() == split.labels.tolist()
            logits = tiny.logits(variables, [split.read(i) for i in range(len(split))])
            np.testing.assert_allclose(arrays[f"{name}_logits"], logits, atol=5e-3)
            accuracy = np.mean(arrays[f"{name}_logits"].argmax(1) == split.labels)
            assert results[name]["accuracy"] == accuracy
            assert results[name]["log_loss"] == pytest.approx(results[name]["loss"], rel=1e-4)  # Of logits in float16.
            before = results["calibration"][name]["before"]
            assert before["log_loss"] == pytest.approx(results[name]["loss"], abs=2e-3)  # Of logits in float16.
    calibration = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert (calibration["step"], calibration["count"]) == (best, 6)


# Questions: after each step, and after each batch of an evaluation. 1 is step 1; 2 and 3 are the border of the stages,
# before and within its evaluation; 7 is the evaluation on test.
@pytest.mark.parametrize(
    ("question", "step"),
    [
        (2, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (3, 2), (4, 3), (5, 4), (6, 4), (7, 4))),
    ],
)
def test_wherever_it_is_stopped_a_run_goes_on_to_the_same_end(tmp_path, whole, capsys, question, step):
    (tmp_path / "run").mkdir()
    # As a run leaves it that was killed before its first checkpoint: its steps are taken again.
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 7.0}\n{"step": 2, "spl')
    with pytest.raises(Stopped):
        train(staged(), tmp_path / "run", stop_at=question)
    assert "begins again" in capsys.readouterr().out
    assert not (tmp_path / "run" / "results.json").exists()
    train(staged(), tmp_path / "run")
    assert f"continues at step {step} of 4" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", whole)


def test_each_stage_trains_what_it_says_and_is_counted(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["parameters"] == {"total": 51, "trainable": 51, "frozen": 0}
    # A frozen kernel has no gradient; and no one asks for that of the images.
    forward, full = 8 * (tiny.STEM + tiny.BODY + tiny.HEAD), 8 * (2 * tiny.STEM + 3 * tiny.BODY + 3 * tiny.HEAD)
    stages = results["cost"]["stages"]
    assert [stage["parameters"] for stage in stages] == [15, 51]
    assert [stage["step_gflop"] * 1e9 for stage in stages] == pytest.approx([forward + 8 * tiny.HEAD, full])
    for stage in stages:
        assert (stage["forward_gflop"] * 1e9, stage["full_gflop"] * 1e9) == pytest.approx((forward, full))
    # Two moments of four bytes, and the counts.
    assert 8 * 15 < stages[0]["optimizer_bytes"] < 8 * 51 < stages[1]["optimizer_bytes"]
    with Checkpoints(whole / "checkpoints", read_only=True) as checkpoints:
        border, end = (checkpoints.read_variables(step)["params"] for step in (2, 4))
    start = tiny.experiment(tiny.config()).variables["params"]
    assert moved(start, border) == ["head"]
    assert moved(border, end) == ["body", "head", "stem"]


def moved(before, after):
    return sorted(name for name in before if not np.array_equal(before[name]["kernel"], after[name]["kernel"]))


@pytest.mark.slow
def test_what_stood_still_before_a_stage_does_not_end_it(tmp_path):
    stages = ({"steps": 3, "unfreeze": "head"}, {"steps": 6, "unfreeze": "all"})
    config = tiny.config(finetune__stages=stages, train__eval_every=1, train__patience=2, optimizer__learning_rate=0.0)
    results = train(config, tmp_path / "run")
    # Nothing is better than the first: two evaluations in stage 1 count for nothing, and two of stage 2 end the run.
    assert (results["best_step"], results["steps"]) == (1, 5)


def test_a_damaged_checkpoint_is_told_and_the_steps_after_the_one_before_are_taken_again(tmp_path, whole, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "results.json").unlink()
    for path in (run / "checkpoints" / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-3])
    train(staged(), run)
    out = capsys.readouterr().out
    assert "checkpoint 4 is damaged" in out
    assert "continues at step 2 of 4" in out
    assert_same_end(run, whole)


def test_features_go_with_the_run_and_without_a_test_split_nothing_is_measured_on_it(tmp_path, capsys):
    keys = {"finetune__unfreeze": "head", "train__steps": 6}
    config, run = tiny.still(**keys, data__cache_gib=0.0), tmp_path / "run"
    results = train(config, run, without_test=True)
    assert "computed once for each image" in capsys.readouterr().out
    assert json.loads((run / "features.json").read_text()) == {"cached": True}
    assert not (run / "features").exists()
    assert "test" not in results
    best, variables = read_best(run)
    assert results["best_step"] == best
    # Of the whole network, on the images.
    loss, accuracy = by_hand(variables, tiny.experiment(config).splits.val)
    assert (results["val"]["loss"], results["val"]["accuracy"]) == (pytest.approx(loss, rel=1e-5), accuracy)
    assert results["val"]["log_loss"] == pytest.approx(loss, rel=1e-4)
    with np.load(run / "predictions.npz") as arrays:
        assert set(arrays) == {"classes", "val_names", "val_labels", "val_logits"}
