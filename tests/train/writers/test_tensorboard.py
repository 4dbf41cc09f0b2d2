import io
import struct

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from jaxtl.train.writers.tensorboard import TensorBoard


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
    events = TensorBoard(tmp_path / "events", from_step=7)
    events.scalars({"val/accuracy": 0.5}, 8)
    events.scalars({"val/accuracy": 0.75}, 9)
    events.close()
    version, start, *points = read(tmp_path / "events")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, start.session_log.START)
    assert [(p.step, p.summary.value[0].tag, p.summary.value[0].simple_value) for p in points] == [
        (8, "val/accuracy", 0.5),
        (9, "val/accuracy", 0.75),
    ]


def test_pictures_and_histograms_are_what_they_were(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    writer = TensorBoard(tmp_path / "events", from_step=1)
    writer.image("val/confusion", pixels, 3)
    writer.histogram("updates/head", np.array([-3.0, -2.0, -2.0]), 3)
    writer.histogram("updates/stem", np.array([-3.0]), 3)
    writer.close()
    picture, *histograms = [event.summary.value[0] for event in read(tmp_path / "events")[2:]]
    assert (picture.tag, picture.image.height, picture.image.width) == ("val/confusion", 4, 6)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.image.encoded_image_string))), pixels)
    assert [(each.tag, each.histo.num, each.histo.sum) for each in histograms] == [
        ("updates/head", 3.0, -7.0),
        ("updates/stem", 1.0, -3.0),
    ]
    assert sum(histograms[0].histo.bucket) == 3
