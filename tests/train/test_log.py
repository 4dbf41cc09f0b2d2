import json
import re
import struct

import pytest

from jaxtl.errors import UserError
from jaxtl.train.events import Events
from jaxtl.train.log import MetricsLog, Screen, duration


def records(path):
    from tensorboardX.proto.event_pb2 import Event

    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_event_files_hold_the_curves(tmp_path):
    events = Events(tmp_path, from_step=6)
    events.scalar("val/loss", 0.5, 7)
    events.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, session, point = records(path)
    assert version.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (6, 1)
    assert (point.step, point.summary.value[0].tag, point.summary.value[0].simple_value) == (7, "val/loss", 0.5)


def test_lines_after_the_last_checkpoint_are_taken_again(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, "train", {"loss": step / 2})
        log.write(2, "val", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')  # As a process leaves it that is killed while it writes.
    with MetricsLog(tmp_path, from_step=2, evaluated=False) as log:
        log.sync()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(1, "train"), (2, "train")]


def test_a_line_that_cannot_be_written_is_told(tmp_path):
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "w")  # noqa: SIM115 - closed by the log.
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: No space left on device; make room"), log:
        log.write(1, "train", {"loss": 1.0})


def test_lines_for_a_person_hold_what_he_follows(capsys):
    values = {"loss": 0.51234, "accuracy": 0.875, "grad_norm": 3.0, "learning_rate": 0.008, "images_per_second": 52.4}
    with Screen(30, steps_per_epoch=9.5) as screen:
        screen.line(10, "train", values)
        screen.line(30, "val", {"accuracy": 0.9, "loss": 0.25, "precision": 0.5, "f1": 0.8})
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2/4  step 10/30  train  loss 0.5123  accuracy 87.5 %  learning rate 0.008  52 images/s",
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
