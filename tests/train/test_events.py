import struct

from tensorboardX.proto.event_pb2 import Event

from jaxtl.train.events import Events


def read(folder):
    """Reads the events of the one file in a folder: length, checksum, bytes, checksum, and so on."""
    (path,) = folder.iterdir()
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + size]))
        at += 16 + size
    return found


def test_scalars_are_points_of_curves_and_a_restart_takes_steps_again(tmp_path):
    events = Events(tmp_path / "events", from_step=7)
    events.scalar("val/accuracy", 0.5, 8)
    events.scalar("val/accuracy", 0.75, 9)
    events.close()
    version, start, *points = read(tmp_path / "events")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, start.session_log.START)
    assert [(p.step, p.summary.value[0].tag, p.summary.value[0].simple_value) for p in points] == [
        (8, "val/accuracy", 0.5),
        (9, "val/accuracy", 0.75),
    ]
