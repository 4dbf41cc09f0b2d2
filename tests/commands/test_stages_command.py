"""Stages, averages, rules and losses from the config: what they leave, and that a stopped run goes on exactly."""

import json
import re

import numpy as np
import pytest

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.train import loop
from jaxtl.trees import flatten

STAGES = (
    "--config.train.steps=0",
    "--config.finetune.stages=[{'steps': 3, 'unfreeze': 'head'}, {'steps': 4, 'unfreeze': 1, 'rate': 0.5},"
    " {'epochs': 0.6, 'unfreeze': 'all', 'rate': 0.1}]",
    "--config.train.eval_every=2",
    "--config.train.log_every=1",
    "--config.optimizer.warmup_steps=1",
)
EVERYTHING = (
    "--config.train.ema_decay=0.5",
    "--config.train.skip_nonfinite=True",
    "--config.train.loss_scale=8",
    "--config.augment.mixup=0.4",
    "--config.augment.cutmix=1.0",
    "--config.model.dropout=0.1",
    "--config.optimizer.clip_norm=1.0",
    "--config.finetune.l2={'head/kernel': 1e-3}",
    "--config.finetune.groups={'head': {'name': 'sgd', 'learning_rate': 0.1}, 'biases': {'weight_decay': 0.1}}",
)
# Its first three blocks lie in a stack on the devices, and one by one in checkpoints.
STACKED = (
    "--config.model.name=vit_petals:depth=4,width=16,heads=2,patch=8",
    "--config.model.scan=True",
    "--config.finetune.layer_decay=0.8",
)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def latest(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.steps()[-1]
        return step, flatten(checkpoints.read_variables(step))


@pytest.fixture
def stop_after(monkeypatch):
    """Stops a run as Ctrl-C does, after the checkpoint of a step was begun."""
    save = loop.save

    def arrange(at):
        def interrupted(checkpoints, step, *rest):
            save(checkpoints, step, *rest)
            if step == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop, "save", interrupted if at else save)

    return arrange


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_stopped_inside_a_stage_and_at_a_border_it_goes_on_exactly(train, tmp_path, stop_after, parallel):
    flags = (*STAGES, *EVERYTHING, *STACKED, f"--config.train.parallel={parallel}")
    status, out, err = train(*flags, workdir="whole")
    assert (status, err) == (0, "")
    assert "stage 2 of 3: steps 4 to 7, rates x 0.5" in out
    for at in (2, 3, 6):
        stop_after(at)
        assert train(*flags, workdir="broken")[0] == 130
    stop_after(0)
    status, out, err = train(*flags, workdir="broken")
    assert (status, err) == (0, "")
    assert "continues at step 6 of 12" in out

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert (broken / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    (step, ours), (other, theirs) = latest(broken), latest(whole)
    assert step == other == 12
    for path in theirs:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    one, two = (json.loads((workdir / "results.json").read_text()) for workdir in (broken, whole))
    for key in ("test", "val", "ema", "best_step", "steps", "parameters"):
        assert one[key] == two[key], key
    assert [stage["parameters"] for stage in one["cost"]["stages"]] == [
        stage["parameters"] for stage in two["cost"]["stages"]
    ]


@pytest.mark.slow
def test_each_stage_trains_what_it_says_at_its_rate(train, tmp_path):
    status, _, err = train(*STAGES, "--config.optimizer.schedule=linear", "--config.train.patience=1")
    assert (status, err) == (0, "")
    run = tmp_path / "run"
    rates = {line["step"]: line["learning_rate"] for line in lines(run) if line["split"] == "train"}
    # One warm-up step at the full rate, then down to 0 within the stage; times the stage's factor.
    np.testing.assert_allclose([rates[step] for step in (1, 2, 3)], [0.01, 0.01, 0.005], rtol=1e-6)
    np.testing.assert_allclose([rates[step] for step in (4, 5, 6)], [0.005, 0.005, 0.005 * 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.001, rtol=1e-6)
    # Patience ends the last stage at most; the borders are evaluated and kept too.
    evaluated = [line["step"] for line in lines(run) if line["split"] == "val"]
    assert {2, 3, 4, 6, 7, 8} <= set(evaluated)
    results = json.loads((run / "results.json").read_text())
    head, last, everything = (stage["parameters"] for stage in results["cost"]["stages"])
    assert head == 16 * 3 + 3
    assert head < last < everything == results["parameters"]["total"]
    costs = [stage["step_gflop"] for stage in results["cost"]["stages"]]
    assert costs == sorted(costs)
    assert results["cost"]["full_gflop"] > 2 * results["cost"]["forward_gflop"]


@pytest.mark.slow
def test_the_better_of_weights_and_averages_is_kept_and_tested(train, tmp_path):
    # A rate that wrecks the weights again and again, and an average that hardly follows.
    flags = ("--config.train.ema_decay=0.99", "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=5.0")
    status, _, err = train(*flags, "--config.train.monitor=loss", "--config.optimizer.schedule=constant")
    assert (status, err) == (0, "")
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    won = results["ema"]["won"]
    assert results["ema"][won]["loss"] == min(results["ema"][kind]["loss"] for kind in ("raw", "ema"))
    assert results["val"]["loss"] == results["ema"][won]["loss"]
    split = "val" if won == "raw" else "val_ema"
    seen = {line["step"]: line["loss"] for line in lines(run) if line["split"] == split}
    assert seen[results["best_step"]] == results["val"]["loss"]
    assert read_best(run)[0] == results["best_step"]


@pytest.mark.slow
def test_a_head_only_run_tells_what_freezing_saves(train, tmp_path, jaxtl, config_file, pictures):
    flags = ("--config.finetune.unfreeze=head", "--config.train.steps=2", "--config.finetune.cache_features=off")
    status, out, _ = train(*flags)
    assert status == 0
    cost = json.loads((tmp_path / "run" / "results.json").read_text())["cost"]
    # Forward, and of the gradients that of the head alone: of its 16 x 3 weights, over 8 rows.
    assert cost["step_gflop"] == pytest.approx(cost["forward_gflop"] + 2 * 8 * 16 * 3 / 1e9, rel=1e-12)
    assert 0 < cost["step_gflop"] < 0.6 * cost["full_gflop"]
    assert cost["optimizer_bytes"] < 3 * 4 * (16 * 3 + 3)
    assert "training  the head of " in out
    share = 100 * cost["step_gflop"] / cost["full_gflop"]
    assert f"a step computes {share:.0f} % of what training everything would" in out
    status, out, _ = jaxtl(
        "describe", f"--config={config_file}", f"--config.data.source=folder:{pictures}", *flags[:1], "--compile"
    )
    assert status == 0
    assert "51 parameters train" in out
    assert re.search(r"a step takes [\d.]+ kFLOP \(training everything [\d.,]+ [kM]FLOP", out)
    # Before a step has run: what it needs at its highest, the state and the batch included.
    assert float(re.search(r"([\d.]+) KiB in all on each device", out)[1]) > 0


@pytest.mark.parametrize(
    ("flag", "fragment"),
    [
        ("--config.finetune.groups={'blok.*': {'name': 'sgd'}}", "finetune.groups: 'blok.*' fits no group"),
        ("--config.finetune.groups={'head': {'lr': 1.0}}", "has no key 'lr'; did you mean"),
        ("--config.finetune.groups={'head': {'name': 'adam', 'weight_decay': 0.1}}", 'use "adamw"'),
        ("--config.finetune.l1={'hed': 0.1}", "finetune.l1: 'hed' fits no group"),
        ("--config.finetune.stages=[{'steps': 2}]", "stage 1 of finetune.stages needs unfreeze"),
        ("--config.finetune.stages=[{'steps': 2, 'unfreeze': 'head'}]", "set train.steps and train.epochs to 0"),
        ("--config.train.loss=nowhere:loss", "No module named 'nowhere'"),
        ("--config.train.loss=hinge", "'softmax', 'binary', 'focal', or 'module:function'"),
        ("--config.train.class_weights=1,2", "has 2 numbers, but there are 3 classes"),
        ("--config.train.ema_decay=1.0", "at least 0 and below 1"),
    ],
)
def test_wrong_values_are_explained(train, flag, fragment):
    status, _, err = train(flag)
    assert status == 1
    assert fragment in err


@pytest.mark.parametrize(
    "flags",
    [
        ("--config.train.loss=focal", "--config.train.class_weights=balanced"),
        ("--config.train.loss=binary", "--config.train.label_smoothing=0.1", "--config.optimizer.sam_rho=0.05"),
        ("--config.train.precision=float16", "--config.finetune.unfreeze=norms"),
    ],
)
@pytest.mark.slow
def test_losses_and_options_reach_the_step(train, tmp_path, flags):
    status, _, err = train("--config.train.steps=4", *flags)
    assert (status, err) == (0, "")
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run"))
