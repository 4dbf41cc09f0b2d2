import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from jaxtl.train.screen import Screen, duration


def test_lines_for_a_person_hold_what_he_follows(capsys):
    values = {"loss": 0.51234, "accuracy": 0.875, "grad_norm": 3.0, "learning_rate": 0.008, "images_per_second": 52.4}
    with Screen(30, steps_per_epoch=9.5) as screen:
        screen.line(10, "train", values)
        screen.line(30, "val", {"accuracy": 0.9, "loss": 0.25, "precision": 0.5, "f1": 0.8})
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/4  step 10/30  train  loss 0.5123  accuracy 87.5 %  learning rate 0.008  52 images/s",
        "epoch 4/4  step 30/30  val    loss 0.25  accuracy 90.0 %  F1 80.0 %",
    ]
    with Screen(1000) as screen:
        screen.advance()
        screen.line(1, "train", {"loss": 1.0, "skipped": 2})
    assert re.fullmatch(r"step 1/1000  train  loss 1  2 steps left out  \d+ s left\n", capsys.readouterr().out)


def test_times_for_a_person():
    assert [duration(seconds) for seconds in (0.4, 59.4, 200, 3599.6, 7510)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "1 h 0 min",
        "2 h 5 min",
    ]


_RUN = """
from jaxtl.train.screen import Screen

with Screen(40, batch_size=8, steps_per_epoch=20) as screen:
    for step in range(1, 41):
        screen.advance()
        if step % 10 == 0:
            screen.line(step, "train", {"loss": 1 / step, "accuracy": 0.5, "learning_rate": 0.01})
        if step % 20 == 0:
            screen.line(step, "val", {"loss": 2 / step, "accuracy": 0.02 * step})
            screen.table()
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 70, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_a_bar_and_a_table(columns, encoding):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = os.environ | {"PYTHONIOENCODING": encoding, "TERM": "xterm", "COLUMNS": "", "TQDM_MININTERVAL": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", _RUN], stdin=theirs, stdout=theirs, stderr=theirs, env=settings
    ) as run:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux' way to say that the other end is closed.
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    assert run.returncode == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode(encoding))
    bars = [part for part in re.split(r"[\r\n]", text) if "val 80.0 %" in part and "loss" in part]
    assert bars
    assert max(map(len, bars)) <= columns
    assert "100%" in bars[-1]
    assert ("left" in bars[-1]) == (columns < 90)
    assert "val accuracy" in text
    assert ("█" in text) == (encoding == "utf-8")
