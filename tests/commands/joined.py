"""Real processes on this machine, joined over loopback, and what they leave."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np


def free_port(lowest=0):
    for _ in range(100):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0 if not lowest else np.random.default_rng().integers(lowest, 65536)))
            return listening.getsockname()[1]
    raise AssertionError("no port is free")


def begin_all(command, processes, *, flags_of=lambda number: (), environment_of=lambda number: {}):
    """Starts the command once for each process, with what tells it its number."""
    address = f"127.0.0.1:{free_port()}"
    started = []
    for number in range(processes):
        joined = (f"--coordinator={address}", f"--processes={processes}", f"--process-id={number}")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "jaxtl.main", *command, *flags_of(number), *(joined if processes > 1 else ())],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment_of(number)},
            )
        )
    return started


def finish(started, timeout=300):
    """Waits for all; returns their statuses, and what each printed and complained of."""
    try:
        ended = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            # What were left of it, the next test would be blamed for.
            with process:
                process.kill()
    return [process.returncode for process in started], [out for out, _ in ended], [err for _, err in ended]


def wait_for_line(workdir, started, lines=1):
    """Waits until the run has written so many lines of metrics."""
    log = workdir / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= lines):
        assert all(process.poll() is None for process in started), finish(started)
        time.sleep(0.02)


def stop(workdir, started, which=-1, lines=1):
    """Sends SIGTERM to one process after some lines; returns the step that all have stopped at."""
    wait_for_line(workdir, started, lines)
    started[which].send_signal(signal.SIGTERM)
    statuses, _, errors = finish(started)
    assert statuses == [75] * len(started), errors
    (step,) = {re.search(r"stopped after step (\d+) of", error)[1] for error in errors}
    return step


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same(ours, theirs):
    """Compares two workdirs: losses within 1e-6, the rest of the metrics identical."""
    one, two = lines(ours), lines(theirs)
    assert len(one) == len(two)
    for line, other in zip(one, two, strict=True):
        same_figures(line, other)
    one, two = (json.loads((workdir / "results.json").read_text()) for workdir in (ours, theirs))
    for split in ("val", "test"):
        same_figures(one[split], two[split])
    assert one["best_step"] == two["best_step"]


# What depends on probabilities; in results "intervals" have two of these names.
ROUNDED = ("log_loss", "brier", "ece", "adaptive_ece")


def same_figures(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            same_figures(value, two[key])
        elif key in ROUNDED:
            np.testing.assert_allclose(value, two[key], atol=2e-6, err_msg=key)
        elif key in ("loss", "grad_norm"):
            np.testing.assert_allclose(value, two[key], atol=1e-6 if key == "loss" else 1e-5)
        else:
            assert value == two[key], key


def same_predictions(ours, theirs):
    """Compares the predictions of two workdirs: names and labels are identical, and logits as far as float16 goes."""
    with np.load(ours / "predictions.npz") as one, np.load(theirs / "predictions.npz") as two:
        assert set(one) == set(two)
        for key in one:
            if key.endswith("_logits"):
                np.testing.assert_allclose(one[key], two[key], rtol=2e-3, atol=1e-6, err_msg=key)
            else:
                np.testing.assert_array_equal(one[key], two[key], err_msg=key)
