"""Several processes on this machine, joined over loopback, do what one does."""

import re
import shutil
from pathlib import Path

import pytest
from joined import begin_all, finish, same, same_predictions, stop

from jaxtl.parallel import processes as processes_lib

ROOT = Path(__file__).parents[2]
FLAGS = ("--config.optimizer.name=sgd", "--config.train.batch_size=16")
# Long enough to be stopped in the middle, and wide enough to be cut.
LONG = (
    "--config.model.name=vit_petals:depth=1,width=64,heads=2,patch=8",
    "--config.train.steps=100",
    "--config.train.eval_every=25",
    "--config.optimizer.learning_rate=1e-3",
)


@pytest.fixture
def begin(config_file, pictures, tmp_path):
    def begin(workdir, processes, *flags, **options):
        command = ("train", f"--config={config_file}", f"--config.data.source=folder:{pictures}", *FLAGS, *flags)
        workdirs = () if workdir is None else (f"--workdir={tmp_path / workdir}",)
        return begin_all((*command, *workdirs), processes, **options)

    return begin


@pytest.fixture
def alone(jaxtl, config_file, pictures, tmp_path):
    """Trains in one process, this one; returns what it printed."""

    def train(workdir, *flags):
        source = f"--config.data.source=folder:{pictures}"
        status, out, err = jaxtl(
            "train", f"--config={config_file}", f"--workdir={tmp_path / workdir}", source, *FLAGS, *flags
        )
        assert status == 0, err
        return out

    return train


@pytest.mark.slow
def test_two_and_four_processes_do_what_one_does(begin, alone, tmp_path):
    # Where a stage begins to train a parameter, its average begins as that parameter.
    stages = "[{'steps': 4, 'unfreeze': 'head'}, {'steps': 8, 'unfreeze': 'all'}]"
    flags = (
        "--config.train.steps=0",
        f"--config.finetune.stages={stages}",
        "--config.train.ema_decay=0.5",
        "--config.eval.report=true",
    )
    alone("by 1", *flags)
    pictures = (tmp_path / "by 1" / "report" / "index.html").read_text().count("data:image/jpeg")
    for processes in (2, 4):
        statuses, printed, errors = finish(begin(f"by {processes}", processes, *flags))
        assert statuses == [0] * processes, errors
        assert "test      accuracy" in printed[0]
        # Only the first speaks; but Gloo, from several threads at once, reports each connection of all.
        assert not any(word in text for text in printed[1:] for word in ("petals", "images", "step", "accuracy"))
        same(tmp_path / "by 1", tmp_path / f"by {processes}")  # 18 images of test, 6 of val, in batches of 16.
        same_predictions(tmp_path / "by 1", tmp_path / f"by {processes}")
        # The first process alone writes the page, with the images that others read.
        page = (tmp_path / f"by {processes}" / "report" / "index.html").read_text()
        assert page.count("data:image/jpeg") == pictures > 0
        assert not list((tmp_path / f"by {processes}" / "report").glob("*.tmp"))


@pytest.mark.slow
def test_stopped_on_two_continued_on_four_and_ended_on_one(begin, alone, tmp_path):
    broken = tmp_path / "run"
    first = stop(broken, begin("run", 2, *LONG), which=1)  # SIGTERM to one stops all at the same step.
    second = stop(broken, begin("run", 4, *LONG), which=2, lines=21)
    assert int(first) < int(second) < 100
    assert f"continues at step {second} of 100" in alone("run", *LONG)
    alone("whole", *LONG)
    same(broken, tmp_path / "whole")


@pytest.mark.slow
def test_a_state_cut_over_two_processes_and_pmap_on_two_end_as_one_process_does(begin, alone, tmp_path):
    # Two devices in each process: the parts of every large array lie on all four. Two blocks lie in a stack.
    flags = (*LONG[1:], LONG[0].replace("depth=1", "depth=3"), "--config.model.scan=True")
    fsdp = (*flags, "--config.train.mesh={'data': 1, 'fsdp': -1}")
    cut = stop(tmp_path / "fsdp", begin("fsdp", 2, *fsdp), which=0, lines=12)
    assert f"continues at step {cut} of 100" in alone("fsdp", *flags)
    statuses, _, errors = finish(begin("pmap", 2, *flags, "--config.train.parallel=pmap"))
    assert statuses == [0, 0], errors
    alone("whole", *flags)
    same(tmp_path / "fsdp", tmp_path / "whole")
    same(tmp_path / "pmap", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_share_the_features_that_each_computed_a_part_of(begin, alone, tmp_path):
    # Too little memory for images or features; and process 1 has no row of val.
    flags = ("finetune.unfreeze=head", "augment.crop=none", "augment.flip=0", "data.cache_gib=1e-6")
    on_disk = tuple(f"--config.{flag}" for flag in (*flags, "finetune.cache_features=on"))
    statuses, printed, errors = finish(begin("two", 2, *on_disk))
    assert statuses == [0, 0], errors
    assert "are frozen and computed once for each image" in printed[0]
    alone("one", *on_disk)
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_other_versions_on_some_host_are_named_by_all(begin, tmp_path):
    other, changed = tmp_path / "other", tmp_path / "changed"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nversion = m.version\n"
        "m.version = lambda name: '0.9.9' if name == 'jax' else version(name)\n"
    )
    shutil.copytree(Path(processes_lib.__file__).parents[1], changed / "jaxtl")
    with (changed / "jaxtl" / "errors.py").open("a") as file:
        file.write("# Fixed on this machine only.\n")
    paths = [str(ROOT), f"{other}:{ROOT}", str(changed)]
    started = begin("run", 3, environment_of=lambda number: {"PYTHONPATH": paths[number], "PYTHONSAFEPATH": "1"})
    statuses, _, errors = finish(started)
    assert statuses == [1, 1, 1]
    for error in errors:
        assert "the processes run different versions; install the same everywhere:" in error
        assert "Traceback" not in error
        zero, one, two = re.findall(r"^process (\d): jax (\S+) .* jaxtl (\w{8})$", error, re.MULTILINE)
        assert (zero[0], one[0], two[0]) == ("0", "1", "2")
        assert one[1] == "0.9.9" != zero[1] == two[1]
        assert zero[2] == one[2] != two[2]


@pytest.mark.slow
def test_a_workdir_that_is_another_folder_on_some_host_is_named_by_all(begin, tmp_path):
    workdirs = [(f"--workdir={tmp_path / name}",) for name in ("one", "two")]
    statuses, _, errors = finish(begin(None, 2, flags_of=lambda number: workdirs[number]))
    assert statuses == [1, 1]
    for error in errors:
        assert f"process 1: --workdir={tmp_path / 'two'} is another folder on " in error
        assert "give one on a file system that all hosts share" in error
    assert not any((tmp_path / name / "config.json").exists() for name in ("one", "two"))


@pytest.mark.slow
def test_other_flags_for_some_process_are_named_by_all(begin):
    statuses, _, errors = finish(begin("run", 2, flags_of=lambda number: (f"--config.train.seed={number}",)))
    assert statuses == [1, 1]
    for error in errors:
        assert "the config: process 1 differs from process 0 in train.seed: start all processes alike" in error


@pytest.mark.slow
def test_what_one_process_alone_finds_wrong_ends_all(begin, tmp_path):
    started = begin(
        "run", 2, "--config.train.steps=2", flags_of=lambda number: ("--config.train.patience=-1",) * number
    )
    statuses, _, errors = finish(started)
    assert statuses == [1, 1]
    assert errors[1].startswith("error: train.patience is -1, but it must be 0 or more.")
    assert "process 1 cannot go on: train.patience is -1, but it must be 0 or more." in errors[0]
    assert not any("Traceback" in error for error in errors), errors


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_named_in_time(begin):
    started = begin("run", 2, "--connect-timeout=2")
    started[0].kill()
    statuses, _, errors = finish(started)
    assert statuses[1] == 76
    assert re.search(r"process 1 of 2 at 127\.0\.0\.1:\d+: not all processes had come together after 2 s", errors[1])


def test_half_an_address_is_an_error(jaxtl, config_file, tmp_path):
    flags = ("train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", "--config.data.source=folder:x")
    for more, problem in (
        (("--coordinator=10.0.0.1:1234", "--processes=2"), "--process-id=-1: give all three, as in"),
        (("--coordinator=10.0.0.1", "--processes=2", "--process-id=1"), "the first lacks a port, as in"),
        (("--coordinator=10.0.0.1:1234", "--processes=2", "--process-id=2"), "the last counts from 0, as in"),
    ):
        status, _, err = jaxtl(*flags, *more)
        assert status == 1
        assert problem in err
