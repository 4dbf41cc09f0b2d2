import json
import struct

import pytest

from jaxtl.errors import UserError
from jaxtl.train.events import Events
from jaxtl.train.log import MetricsLog


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
