"""Ctrl-C in real processes: status 130 and one line, no traceback, whatever the process is doing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtl.interrupts import Interrupts

pytestmark = pytest.mark.usefixtures("interruptible")

# A command that is interrupted where the code says so; {code} prints "ready" when it is there.
PROGRAM = """
import importlib, sys, time
from jaxtl import interrupts, main
interrupts.GRACE = 0.2

def run(argv, synchronous, watch):
    watch.began = True
    {code}

main._run = run
sys.exit(main.start())
"""


def interrupt(command, ready, **options):
    """Starts a process and interrupts it when it has printed a line; returns its status and what it complained of."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            for line in process.stdout:
                if line.startswith(ready):
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, err


@pytest.mark.parametrize(
    "code",
    [
        "print('ready', flush=True); time.sleep(60)",
        # What some libraries do while they are imported.
        """
    try:
        print('ready', flush=True); time.sleep(60)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None
""",
        # A program that is being compiled answers no more than this.
        """
    print('ready', flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
""",
    ],
    ids=["waits", "turns it into another error", "does not answer"],
)
def test_it_ends_with_a_line(code):
    status, err = interrupt([sys.executable, "-c", PROGRAM.format(code=code.strip())], "ready")
    assert (status, err) == (130, "interrupted\n")


def test_it_says_what_is_kept_of_a_run(tmp_path, capsys):
    interrupts = Interrupts()
    interrupts.run = tmp_path / "run"
    interrupts.say()
    interrupts.say()
    assert capsys.readouterr().err == "interrupted before the first checkpoint; started again, the run begins anew\n"
    (tmp_path / "run" / "checkpoints" / "8").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "12").mkdir()
    other = Interrupts()
    other.run = tmp_path / "run"
    other.say()
    assert capsys.readouterr().err == (
        f"interrupted; {tmp_path / 'run'} keeps the checkpoint of step 12, and started again, the run goes on from "
        "there\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_while_it_imports(seconds):
    """Python itself, before it comes to jaxtl, still ends with a traceback: the second thread tells that it has."""
    command = [sys.executable, "-m", "jaxtl.main", "describe", "--config=vit_flowers:demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(list(Path(f"/proc/{process.pid}/task").iterdir())) < 2:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
