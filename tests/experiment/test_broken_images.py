import io

import numpy as np
import pytest
from PIL import Image

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment.broken_images import all_named, broken_images


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def dataset(name: str, files: list[bytes]) -> data.Dataset:
    names = tuple(f"{name}{i}" for i in range(len(files)))
    return data.Dataset(("a", "b"), np.zeros(len(files), np.int32), names, lambda i: files[i])


def test_the_first_ten_are_named_and_the_others_counted():
    lines = str(broken_images([f"{i}.png is empty" for i in range(12)], 1000)).splitlines()
    assert lines[0] == "12 of 1,000 images cannot be read:"
    assert lines[1:11] == [f"{i}.png is empty" for i in range(10)]
    assert lines[11] == "and 2 more"
    assert (
        lines[12]
        == "Replace them; or begin a run with --config.data.skip_broken=true, which leaves them out, and lists them."
    )


def test_where_one_image_cannot_be_read_all_are_named():
    sets = dataset("train", [png(), b"", png()]), None, dataset("test", [b"", png()])
    with pytest.raises(UserError) as error, all_named(*sets):
        data.decode(b"", "train1")
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["2", "train1", "test0", "Replace"]
    with all_named(*sets):
        pass
