"""Several processes on this machine, joined over loopback, do what one does."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

FLAGS = ("--config.optimizer.name=sgd", "--config.train.batch_size=16")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def begin(config_file, pictures, tmp_path):
    def begin(workdir, processes, *flags):
        address = f"127.0.0.1:{free_port()}"
        started = []
        for number in range(processes):
            joined = (f"--coordinator={address}", f"--processes={processes}", f"--process-id={number}")
            command = [
                *(sys.executable, "-m", "jaxtl.main", "train"),
                f"--config={config_file}",
                f"--workdir={tmp_path / workdir}",
                f"--config.data.source=folder:{pictures}",
                *FLAGS,
                *flags,
                *(joined if processes > 1 else ()),
            ]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started

    return begin


def finish(started):
    """Waits for all; returns their statuses, what the first printed and what the others did."""
    ended = [process.communicate(timeout=600) for process in started]
    # Gloo reports each connection on the standard output.
    printed = ["".join(re.sub(r"\[Gloo\].*\n", "", out)) for out, _ in ended]
    return [process.returncode for process in started], printed, [err for _, err in ended]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key in ("loss", "grad_norm"):
                np.testing.assert_allclose(value, two[key], atol=1e-6 if key == "loss" else 1e-5)
            else:
                assert value == two[key], key


@pytest.mark.slow
def test_two_and_four_processes_do_what_one_does(begin, tmp_path):
    for processes in (1, 2, 4):
        statuses, printed, errors = finish(begin(f"by {processes}", processes))
        assert statuses == [0] * processes, errors
        assert "test   accuracy" in printed[0]
        assert not any(printed[1:])  # Only the first speaks.
    one = json.loads((tmp_path / "by 1" / "results.json").read_text())
    for processes in (2, 4):
        other = json.loads((tmp_path / f"by {processes}" / "results.json").read_text())
        same(lines(tmp_path / "by 1"), lines(tmp_path / f"by {processes}"))
        np.testing.assert_allclose(one["test"].pop("loss"), loss := other["test"].pop("loss"), atol=1e-6)
        assert one["test"] == other["test"]  # 18 images in batches of 16.
        one["test"]["loss"] = loss


@pytest.mark.slow
def test_sigterm_to_one_of_two_stops_both_at_the_same_step_and_one_process_goes_on(begin, tmp_path):
    flags = ("--config.train.steps=400", "--config.train.eval_every=100", "--config.optimizer.learning_rate=1e-3")
    started = begin("broken", 2, *flags)
    log = tmp_path / "broken" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and all(process.poll() is None for process in started):
        time.sleep(0.02)
    started[1].send_signal(signal.SIGTERM)
    statuses, _, errors = finish(started)
    assert statuses == [75, 75], errors
    stopped = {re.search(r"stopped after step (\d+) of 400", error)[1] for error in errors}
    assert len(stopped) == 1
    statuses, printed, errors = finish(begin("broken", 1, *flags))
    assert statuses == [0], errors
    assert f"continues at step {stopped.pop()} of 400" in printed[0]
    assert finish(begin("whole", 1, *flags))[0] == [0]
    same(lines(tmp_path / "broken"), lines(tmp_path / "whole"))


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_named_in_time(begin):
    started = begin("run", 2, "--connect-timeout=2")
    started[0].kill()
    statuses, _, errors = finish(started)
    assert statuses[1] == 75
    assert re.search(r"process 1 of 2 at 127\.0\.0\.1:\d+: not all processes had come together after 2 s", errors[1])


def test_half_an_address_is_an_error(jaxtl, config_file, tmp_path):
    flags = ("train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", "--config.data.source=folder:x")
    status, _, err = jaxtl(*flags, "--coordinator=10.0.0.1:1234", "--processes=2")
    assert status == 1
    assert "--process-id=-1: give all three" in err
