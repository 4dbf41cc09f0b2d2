import numpy as np
import pytest
from PIL import Image

from jaxtl.data.choosing import choose_splits
from jaxtl.data.source import open_source, without_broken
from jaxtl.errors import UserError


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "'' is none of tfds:NAME"),
        ("folder:", "'folder:' is none of"),
        ("/data/flowers", "none of tfds:NAME"),
        ("foldr:/data", "did you mean folder:/data"),
        ("CSV:/data/x.csv", "none of"),
    ],
)
def test_uris(uri, message):
    with pytest.raises(UserError, match=message):
        open_source(uri)


def test_one_class_only(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((3, 4, 4, 3), np.uint8), y_train=np.zeros(3, int))
    one = open_source(f"npz:{tmp_path}/x.npz")  # It can be measured, but not trained on.
    assert one.classes == ("0",)
    with pytest.raises(UserError, match="has one class only, 0"):
        choose_splits(one)


def test_imagenet_sample_is_one_pool(shared):
    data = open_source(f"csv:{shared}/datasets/imagenet_sample_1000/labels.csv")
    assert data.split_names == ("all",)
    assert len(data.split("all")) == len(data.split("train")) == 1000


def test_images_that_cannot_be_decoded_are_left_out_and_listed(tmp_path):
    for i in range(5):
        for name in "ab":
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / name / f"{i}.png")
    data = open_source(f"folder:{tmp_path}")
    assert without_broken(data) is data
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "b" / "4.png").write_bytes((tmp_path / "b" / "4.png").read_bytes()[:-30])
    left = without_broken(data)
    assert sorted({*data.splits["all"].names} - {*left.splits["all"].names}) == ["a/1.png", "b/4.png"]
    (note,) = choose_splits(left).notes[:1]
    (tmp_path / "a" / "1.png").unlink()
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        without_broken(open_source(f"folder:{tmp_path}"))
    lines = note.splitlines()
    assert lines[0] == "2 images cannot be read, and are left out:"
    assert lines[1] == f"  {tmp_path}/a/1.png is empty (0 bytes); replace it or remove it"
    assert lines[2].startswith(f"  {tmp_path}/b/4.png ")
