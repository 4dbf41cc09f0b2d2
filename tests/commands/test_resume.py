"""A run that is killed and started again ends as one that was never stopped."""

import itertools
import json
import os
import random
import signal
import time

import numpy as np
import pytest
import warm

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.feature_cache import store
from jaxtl.train.preemption import Preemption
from jaxtl.train.progress import Progress
from jaxtl.trees import flatten

FLAGS = (
    "--config.train.steps=30",
    "--config.train.eval_every=5",
    "--config.model.dropout=0.1",  # The keys must continue too.
    "--config.augment.preset=strong",
    "--config.augment.color_jitter=0.2",
)


def latest(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.steps()[-1]
        return step, flatten(checkpoints.read_variables(step))


class Moment:
    """Tells when a process is to be killed: some time after something happened in its workdir."""

    def __init__(self, event, workdir, delay):
        self.event, self._delay, self._due = event, delay, None
        self._folder, self._lines = workdir / "checkpoints", workdir / "metrics.jsonl"
        self._before = self._look()
        if event == "start":
            self._due = time.monotonic() + delay

    def _look(self):
        names = {path.name for path in [*self._folder.glob("*"), *self._folder.glob("frozen/*")]}
        return {
            "start": set(),
            "line": set(range(self._lines.stat().st_size)) if self._lines.exists() else set(),
            "saving": {name for name in names if "tmp" in name},
            "saved": {name for name in names if name.isdigit()},
            "last": names & {"30"},
        }[self.event]

    def has_come(self):
        if self._due is None:
            before, self._before = self._before, self._look()
            # A run that goes on from its last checkpoint has saved it already.
            if self._before - (set() if self.event == "last" else before):
                self._due = time.monotonic() + self._delay
        return self._due is not None and time.monotonic() >= self._due


def same_run(ours, theirs):
    """Holds two finished workdirs to the same bytes, but for clocks."""
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    (step, mine), (other, yours) = latest(ours), latest(theirs)
    assert step == other
    assert mine.keys() == yours.keys()
    for path in mine:
        np.testing.assert_array_equal(mine[path], yours[path], err_msg=path)
    one, two = (json.loads((workdir / "results.json").read_text()) for workdir in (ours, theirs))
    for results in (one, two):
        del results["seconds"], results["train"]["images_per_second"]
    assert one == two


# The head on cached features; with every checkpoint written, and with those that wait in memory lost.
HEAD = (
    "--config.finetune.unfreeze=head",
    "--config.augment.preset=none",
    "--config.augment.color_jitter=0",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "pause", "kills"),
    [((), 0, 25), (HEAD, 0, 10), (HEAD, 9, 10)],
    ids=["all", "head", "head, paused"],
)
def test_killed_at_random_moments_and_continued_it_is_bit_for_bit_the_same(
    config_file, pictures, tmp_path, monkeypatch, more, pause, kills
):
    # A cache of its own: a process may be killed while it writes there, too.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    given = {flag.partition("=")[0]: flag for flag in (*FLAGS, *more)}  # Of two the later one.
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}", *given.values())

    def start(workdir):
        return warm.start(("train", f"--workdir={workdir}", *flags), tmp_path / f"{workdir.name}.txt", pause=pause)

    seconds = {}
    for name in ("first", "whole"):  # The first one compiles; the second tells how long it takes from then on.
        whole = tmp_path / name
        began, process = time.monotonic(), start(whole)
        while process.exitcode is None:
            if (whole / "metrics.jsonl").exists():
                seconds.setdefault(f"start {name}", time.monotonic() - began)
            if (whole / "checkpoints" / "30").exists():
                seconds.setdefault(f"last {name}", time.monotonic())
            process.join(0.002)
        # Small checkpoints are written at the end, and may not be seen before it.
        seconds[f"last {name}"] = time.monotonic() - seconds.get(f"last {name}", time.monotonic())
        assert process.exitcode == 0, (tmp_path / f"{name}.txt").read_text()
    same_run(tmp_path / "first", whole)

    spread = {"start": seconds["start whole"], "line": 0.2, "saving": 0.05, "saved": 0.1, "last": seconds["last whole"]}
    rng, killed, workdir, runs = random.Random(0), [], tmp_path / "run0", 0
    for event in itertools.islice(itertools.cycle(("line", "saving", "start", "saved", "line", "last")), 100):
        process, moment = start(workdir), Moment(event, workdir, rng.uniform(0, spread[event]))
        while process.exitcode is None and not (len(killed) < kills and moment.has_come()):
            process.join(0.002)
        if process.exitcode is None:
            process.kill()
            process.join()
            killed.append(event)
        if process.exitcode == -signal.SIGKILL:
            continue
        # Not met before its end: it is whole, and the next begins another run.
        assert process.exitcode == 0, (tmp_path / f"{workdir.name}.txt").read_text()
        same_run(workdir, whole)
        runs += 1
        if len(killed) == kills:
            break
        workdir = tmp_path / f"run{runs}"
    assert len(killed) == kills
    print({event: killed.count(event) for event in spread}, f"in {runs} runs")


@pytest.mark.slow
def test_sigterm_in_the_middle_of_training_saves_and_ends_and_the_run_goes_on(config_file, pictures, tmp_path):
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}", *FLAGS)

    def start(workdir):
        return warm.start(("train", f"--workdir={workdir}", *flags), tmp_path / f"{workdir.name}.txt")

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(whole)
    process.join()
    assert process.exitcode == 0, (tmp_path / "whole.txt").read_text()
    process, moment = start(broken), Moment("line", broken, 0)
    while process.exitcode is None and not moment.has_come():
        process.join(0.002)
    began = time.monotonic()
    process.terminate()
    process.join()
    said = (tmp_path / "broken.txt").read_text()
    print(f"ended {time.monotonic() - began:.1f} s after the signal:", said.splitlines()[-1])
    assert process.exitcode == os.EX_TEMPFAIL, said
    assert "SIGTERM: saves and ends" in said
    assert "stopped after step" in said  # And not: "not done 13 s after SIGTERM".
    process = start(broken)
    process.join()
    assert process.exitcode == 0
    assert "continues at step" in (tmp_path / "broken.txt").read_text()
    same_run(broken, whole)


@pytest.mark.slow
# After step 2; after a batch of the evaluation that follows step 4.
@pytest.mark.parametrize(("call", "sampling"), [(2, ""), (5, ""), (2, "balanced"), (5, "sqrt")])
def test_stopped_by_sigterm_and_continued_it_is_bit_for_bit_the_same(train, tmp_path, monkeypatch, call, sampling):
    flags = ("--config.model.dropout=0.1", "--config.augment.preset=strong", f"--config.train.sampling={sampling}")
    train(*flags, workdir="whole")
    calls = iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "requested", lambda self: next(calls) == call)
        patch.setattr(Progress, "total", lambda self: 1000.0)
        status, _, err = train(*flags, workdir="broken")
    assert status == 75
    assert f"stopped after step {min(call, 4)} of 12; started again, the run goes on" in err
    status, out, _ = train(*flags, workdir="broken")
    assert status == 0
    assert f"continues at step {min(call, 4)} of 12" in out
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    (step, ours), (other, theirs) = latest(broken), latest(whole)
    assert step == other == 12
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    assert json.loads((broken / "results.json").read_text())["seconds"]["total"] > 1000
    with (
        Checkpoints(whole / "checkpoints", read_only=True) as a,
        Checkpoints(broken / "checkpoints", read_only=True) as b,
    ):
        assert a.ranked() == b.ranked()


@pytest.mark.slow
def test_a_run_that_began_with_cached_features_goes_on_with_them(train, tmp_path, monkeypatch):
    flags = ("--config.finetune.unfreeze=head", "--config.augment.crop=none", "--config.augment.flip=0")
    calls = iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "requested", lambda self: next(calls) == 6)
        assert train(*flags)[0] == 75
    assert json.loads((tmp_path / "run" / "features.json").read_text()) == {"cached": True}
    monkeypatch.setattr(store, "free_bytes", lambda folder: 0)
    less = "--config.data.cache_gib=0"
    status, _, err = train(*flags, less)
    assert status == 1
    assert "the run began with cached features, but" in err
    monkeypatch.undo()
    status, out, _ = train(*flags, less)
    assert status == 0
    assert "computed once for each image" in out


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_taken_again(train, tmp_path):
    train(workdir="whole")
    train(workdir="broken")
    broken = tmp_path / "broken"
    (broken / "results.json").unlink()
    newest = broken / "checkpoints" / "12" / "variables"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    status, out, _ = train(workdir="broken")
    assert status == 0
    assert "checkpoint 12 is damaged" in out
    assert "it is kept as damaged-12" in out
    assert "continues at step 8" in out
    assert (broken / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    step, variables = read_best(broken)
    expected, theirs = read_best(tmp_path / "whole")
    assert step == expected
    for path, leaf in flatten(variables).items():
        np.testing.assert_array_equal(leaf, flatten(theirs)[path], err_msg=path)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_data(train, pictures, tmp_path):
    train()
    (tmp_path / "run" / "results.json").unlink()
    (pictures / "train" / "red" / "000.png").rename(pictures / "train" / "red" / "900.png")
    status, _, err = train()
    assert status == 1
    assert "the training images changed" in err or "the validation images changed" in err


@pytest.mark.slow
def test_before_the_first_checkpoint_a_config_may_be_mended(train, tmp_path):
    status, _, err = train("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e25")
    assert status == 1
    assert "there was no checkpoint yet" in err
    assert train("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e-2")[0] == 0


@pytest.mark.slow
def test_a_run_goes_on_with_weights_that_moved_but_not_with_others(train, jaxtl, tmp_path):
    for number, name in enumerate(("first", "second")):
        train(f"--config.train.seed={number}", workdir=name)
        output = tmp_path / name / "exported" / "w.safetensors"
        assert jaxtl("export", f"--workdir={tmp_path / name}", f"--output={output}")[0] == 0
    exported = tmp_path / "first" / "exported"
    train(f"--config.model.weights={exported / 'w.safetensors'}")
    (tmp_path / "run" / "results.json").unlink()
    exported.rename(tmp_path / "moved")
    status, out, err = train(f"--config.model.weights={tmp_path / 'moved' / 'w.safetensors'}")
    assert (status, err) == (0, "")
    assert "continues at step 12 of 12" in out
    (tmp_path / "run" / "results.json").unlink()
    for weights in (tmp_path / "second" / "exported" / "w.safetensors", ""):
        status, _, err = train(f"--config.model.weights={weights}")
        assert status == 1
        assert "the weight file w.safetensors changed" in err
