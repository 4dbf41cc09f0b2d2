import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.compress.pruning import count_zeros
from jaxtl.experiment.build import build_run
from jaxtl.trees import flatten

KERNELS = [f"block{i}/{part}/kernel" for i in (0, 1) for part in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")]


def read(workdir, name="results.json"):
    return json.loads((workdir / name).read_text())


@pytest.fixture
def compress(plain, jaxtl, tmp_path):
    """Compresses the run; returns (the new workdir, exit status, what it printed, what it complained of)."""

    def run(recipe, *flags, of=plain / "run", name="new"):
        output = tmp_path / name
        return output, *jaxtl("compress", f"--workdir={of}", f"--recipe={recipe}", f"--output={output}", *flags)

    return run


def test_a_pruned_run_has_its_zeros_in_weights_and_averages_and_is_known_to_all(compress, jaxtl, pictures, tmp_path):
    ema = "--config.train.ema_decay=0.9"
    new, status, printed, told = compress(
        "prune", "--sparsity=0.6", "--scope=global", "--epochs=2", ema, "--config.train.keep_latest=9"
    )
    assert (status, told) == (0, "")
    with Checkpoints(new / "checkpoints", read_only=True) as checkpoints:
        for step in checkpoints.steps():
            zeros, count = count_zeros(checkpoints.read_variables(step)["params"], KERNELS)
            assert zeros == round(0.6 * count)
    results = read(new)
    before, after = results["compress"]["table"]
    assert (before["zeros"] < 0.01, after["zeros"] > 0.3, after["bytes"]) == (True, True, before["bytes"])
    assert after["accuracy"] == results["test"]["accuracy"]
    assert results["ema"]["decay"] == 0.9
    assert (new / "compress.md").read_text().splitlines()[-1].startswith(f"| {new}")
    assert "| accuracy on test |" in printed
    status, line, _ = jaxtl("predict", f"--workdir={new}", pictures / "test" / "red" / "100.png")
    assert json.loads(line)["class"] in ("red", "green", "blue")
    source = f"--config.data.source=folder:{pictures}"
    status, printed, told = jaxtl("eval", f"--config.model.weights=run:{new}", f"--workdir={tmp_path / 'e'}", source)
    assert (status, told) == (0, "")
    assert read(tmp_path / "e")["test"]["accuracy"] == results["test"]["accuracy"]
    status, _, told = jaxtl("export", f"--workdir={new}", f"--output={tmp_path / 'new.safetensors'}")
    assert (status, told) == (0, "")


@pytest.mark.slow
def test_zeros_grow_on_a_ramp_and_no_checkpoint_before_its_end_is_the_best(compress):
    flags = ("--epochs=4", "--config.train.eval_every=2", "--config.prune.every=1", "--config.train.keep_latest=99")
    new, status, _, told = compress("prune", "--sparsity=0.8", "--scope=global", "--ramp=0.5", *flags)
    assert (status, told) == (0, "")
    with Checkpoints(new / "checkpoints", read_only=True) as checkpoints:
        steps, scored = checkpoints.steps(), checkpoints.ranked()
        shares = []
        for step in steps:
            zeros, count = count_zeros(checkpoints.read_variables(step)["params"], KERNELS)
            shares.append(zeros / count)
    end = round(0.5 * read(new)["steps"])
    assert shares == sorted(shares)
    at_end = [share for step, share in zip(steps, shares, strict=True) if step >= end]
    np.testing.assert_allclose(at_end, 0.8, atol=1e-3)
    assert 0 < shares[0] < 0.8
    assert all(step >= end for step in scored)
    assert read(new)["best_step"] >= end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("prune", ["--sparsity=0.7", "--ramp=0.6", "--scope=group"]),
        ("prune", []),
        ("structure", ["--flops=0.3"]),
    ],
)
def test_killed_twice_it_ends_bit_for_bit_as_if_it_had_never_stopped(recipe, flags, plain, compress, tmp_path):
    flags = [*flags, "--epochs=6", "--config.train.ema_decay=0.8", "--config.train.eval_every=3"]
    whole, status, _, told = compress(recipe, *flags, name="whole")
    assert (status, told) == (0, "")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "jaxtl.main", "compress", f"--workdir={plain / 'run'}", f"--recipe={recipe}"]
    command += [*flags, f"--output={killed}"]
    kill_when(command, lambda: any(folder.name.isdigit() for folder in (killed / "checkpoints").glob("*")))
    beginning = killed / "beginning.safetensors"
    if beginning.exists():
        # Another device would round otherwise, and training refuses other weights than it began with: it is not made
        # again.
        os.utime(beginning, ns=(0, 0))
    printed = kill_when(command, (killed / "results.json").exists)
    assert "continues at step" in printed
    assert not beginning.exists() or beginning.stat().st_mtime_ns == 0
    assert "compress" not in read(killed)
    assert not (killed / "compress.md").exists()
    again = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert "is finished already" in again.stdout
    assert (killed / "compress.md").read_text().splitlines()[-1].startswith(f"| {killed}")
    tables = [[{**row, "run": "", "ms": 0} for row in read(run)["compress"]["table"]] for run in (whole, killed)]
    assert tables[0] == tables[1]
    jax.tree.map(np.testing.assert_array_equal, read_best(whole)[1], read_best(killed)[1])


@pytest.mark.slow
def test_killed_while_it_only_rounds_it_begins_again(plain, compress, tmp_path):
    whole, status, _, told = compress("w8a8", name="whole")
    assert (status, told) == (0, "")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "jaxtl.main", "compress", f"--workdir={plain / 'run'}", "--recipe=w8a8"]
    command += [f"--output={killed}"]
    kill_when(command, (killed / "config.json").exists)
    kill_when(command, (killed / "results.json").exists)
    assert "compress" not in read(killed)
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert read(killed)["compress"]["recipe"] == "w8a8"
    jax.tree.map(np.testing.assert_array_equal, read_best(whole)[1], read_best(killed)[1])


def test_what_was_stopped_goes_on_with_the_same_alone(compress, jaxtl):
    new, status, _, told = compress("structure", "--flops=0.2", "--epochs=1")
    assert (status, told) == (0, "")
    results = read(new)
    del results["compress"]
    (new / "results.json").write_text(json.dumps(results))  # As if it had been stopped before its table.
    _, status, _, told = compress("structure", "--flops=0.3", "--epochs=1")
    assert (status, told) == (
        1,
        f"error: --output={new} holds a run that was stopped, and was asked for otherwise (flops 0.2, not 0.3): ask "
        "for the same to go on with it, or give a new folder.\n",
    )
    _, status, printed, told = compress("structure", "--flops=0.2", "--epochs=1")
    assert (status, told) == (0, "")
    assert "| accuracy on test |" in printed
    assert {**read(new), "compress": None} == {**results, "compress": None}
    _, status, _, told = compress("structure", "--flops=0.2", "--epochs=1")
    assert (status, told) == (1, f"error: --output={new} holds a run already (config.json): give a new folder.\n")


def kill_when(command, has_come):
    """Runs a process and kills it once something has come to be; returns what it printed until then."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not has_come():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        return process.stdout.read()


def test_by_default_each_unit_loses_its_share(compress):
    new, status, _, told = compress("prune", "--sparsity=0.5", "--epochs=1")
    assert (status, told) == (0, "")
    leaves = flatten(read_best(new)[1]["params"])
    for path in KERNELS:
        rows = leaves[path].reshape(-1, leaves[path].shape[-1])
        assert ((rows == 0).sum(0) == len(rows) // 2).all()


@pytest.mark.slow
def test_two_of_four_inputs_are_zero_after_fine_tuning(compress):
    new, status, _, told = compress("2:4", "--epochs=1")
    assert (status, told) == (0, "")
    leaves = flatten(read_best(new)[1]["params"])
    for path in KERNELS:
        inputs, units = leaves[path].shape
        kept = (leaves[path].reshape(inputs // 4, 4, units) != 0).sum(1)
        assert kept.max() == 2
        assert (kept == 2).mean() > 0.95  # One that stays may be zero by chance, as that of an input that is.


def test_a_run_of_fewer_units_has_smaller_arrays_and_fewer_flops(compress, jaxtl, pictures, tmp_path):
    new, status, _, told = compress("structure", "--flops=0.3", "--epochs=1")
    assert (status, told) == (0, "")
    before, after = read(new)["compress"]["table"]
    assert after["gflop"] <= 0.7 * before["gflop"]
    assert after["parameters"] < before["parameters"]
    model, variables, _ = build_run(new)
    assert sum(leaf.size for leaf in flatten(variables["params"]).values()) == after["parameters"]
    assert ("block_mlp" in model.name) or ("block_heads" in model.name)
    status, line, _ = jaxtl("predict", f"--workdir={new}", pictures / "test" / "red" / "100.png")
    assert (status, json.loads(line)["class"] in ("red", "green", "blue")) == (0, True)
    source, out = f"--config.data.source=folder:{pictures}", tmp_path / "e"
    assert jaxtl("eval", f"--config.model.weights=run:{new}", f"--workdir={out}", source)[0] == 0
    assert read(out)["test"]["accuracy"] == read(new)["test"]["accuracy"]
    # Further fine-tuning starts from it as from any run.
    flags = (f"--config={new / 'config.json'}", f"--config.model.weights=run:{new}", "--config.train.epochs=1")
    assert jaxtl("train", *flags, f"--workdir={tmp_path / 'more'}")[0] == 0


@pytest.mark.parametrize("recipe", ["int8", pytest.param("int4", marks=pytest.mark.slow), "w8a8"])
def test_a_quantized_run_is_small_where_it_is_exported_and_computes_the_same_everywhere(
    recipe, compress, jaxtl, pictures, tmp_path
):
    new, status, _, told = compress(recipe)
    assert (status, told) == (0, "")
    before, after = read(new)["compress"]["table"]
    assert after["bytes"] < (0.55 if recipe == "int4" else 0.6) * before["bytes"]  # Half of this tiny one is no kernel.
    photo = pictures / "test" / "red" / "100.png"
    source, out = f"--config.data.source=folder:{pictures}", tmp_path / "e"
    assert jaxtl("eval", f"--config.model.weights=run:{new}", f"--workdir={out}", source)[0] == 0
    np.testing.assert_allclose(
        np.load(out / "predictions.npz")["test_logits"], np.load(new / "predictions.npz")["test_logits"], atol=2e-3
    )
    file = tmp_path / "small.safetensors"
    assert jaxtl("export", f"--workdir={new}", f"--output={file}")[0] == 0
    assert file.stat().st_size < after["bytes"] + 10_000
    given = (f"--config.model.weights={file}", "--config.model.name=auto", source, f"--workdir={tmp_path / 'f'}")
    status, _, told = jaxtl("eval", *given, f"--config={new / 'config.json'}")
    assert (status, told) == (0, "")
    np.testing.assert_allclose(
        np.load(tmp_path / "f" / "predictions.npz")["test_logits"],
        np.load(out / "predictions.npz")["test_logits"],
        atol=2e-3,
    )
    status, line, _ = jaxtl("predict", f"--workdir={new}", photo)
    assert (status, json.loads(line)["class"] in ("red", "green", "blue")) == (0, True)


@pytest.mark.slow
def test_training_that_rounds_moves_weights_towards_what_is_rounded(compress):
    rounded, *_ = compress("int4", name="rounded")
    tuned, status, _, told = compress("int4", "--epochs=3", name="tuned")
    assert (status, told) == (0, "")
    assert read(tuned)["val"]["loss"] <= read(rounded)["val"]["loss"]


def test_what_cannot_be_compressed_is_said_in_a_line_and_leaves_nothing(compress, plain, tmp_path):
    run = plain / "run"
    for recipe, flags, words in (
        ("prune", ["--sparsity=1.5"], "--sparsity is 1.5, but it must lie between 0 and 1"),
        ("structure", ["--flops=0"], "--flops is 0, but it must lie between 0 and 1"),
        ("structure", ["--flops=0.99"], "can go at most"),
        ("int8", ["--ramp=0.5"], "--ramp is for prune, not for --recipe=int8."),
        ("structure", ["--sparsity=0.5"], "--sparsity is for prune, not for --recipe=structure."),
        ("prune", ["--ramp=1"], "--ramp is 1, but it must be at least 0 and below 1."),
        ("int8", ["--epochs=nan"], "--epochs is nan, but it must be 0 or more"),
        ("prune", ["--ramp=0.5"], "--ramp goes by the size of weights: give --scope=global or group with it."),
        (
            "prune",
            ["--ramp=0.5", "--scope=group", "--epochs=0"],
            "--epochs is 0, but it must be 0 or more, and above 0 with --ramp",
        ),
        ("prune", ["--config.train.epoch=3"], "unknown key config.train.epoch; did you mean config.train.epochs?"),
    ):
        new, status, _, told = compress(recipe, *flags)
        assert (status, new.exists()) == (1, False)
        assert told.startswith("error: ")
        assert words in told
    status, told = compress("smaller")[1::2]
    assert status == 2
    assert "invalid choice: 'smaller'" in told
    _, status, _, told = compress("int8", of=tmp_path / "nowhere")
    assert (status, told) == (1, f"error: there is no folder {tmp_path / 'nowhere'}: give the workdirs of runs.\n")
    empty = shutil.copytree(run, tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    _, status, _, told = compress("int8", of=empty)
    assert (status, told) == (1, f"error: {empty} holds no run: give the workdirs of runs that have trained.\n")
    taken = shutil.copytree(run, tmp_path / "new")
    for recipe in ("int8", "prune"):
        _, status, _, told = compress(recipe)
        assert (status, told) == (
            1,
            f"error: --output={taken} holds a run already (config.json): give a new folder.\n",
        )
        _, status, _, told = compress(recipe, of=taken, name=taken / "within")
        assert (status, told) == (
            1,
            f"error: --output={taken / 'within'} is {taken}, or lies in it: give a new folder.\n",
        )
