from functools import partial

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import eval_view
from jaxtl.deploy.judge import Judge
from jaxtl.deploy.predictor import find_images, predict
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(4, 4, (0.0,) * 3, (1.0,) * 3, "nearest")


@pytest.fixture
def files(tmp_path):
    for number, name in enumerate(["a.png", "b.png", "c.png"]):
        Image.new("RGB", (6, 4), (10 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.jpg").write_text("Buy milk and")
    return tmp_path


def brightness(images):
    """Gives logits by which the probability of class 1 is how red the first pixel is, of 100."""
    assert images.shape == (2, 4, 4, 3)
    red = images[:, 0, 0, 0] / 100
    return np.log(np.stack([1 - red, np.maximum(red, 1e-9)], axis=1))


def lines(paths):
    return list(
        predict(
            paths, logits=brightness, judge=Judge(("dark", "red")), view=partial(eval_view, pixels=PIXELS), batch_size=2
        )
    )


def test_each_file_gets_a_line_in_order_and_batches_are_filled_up(files):
    found = lines([files / name for name in ("c.png", "a.png", "b.png")])
    assert [line["probability"] for line in found] == [0.8, 1.0, 0.9]
    assert [line["class"] for line in found] == ["dark"] * 3
    assert found[0]["top5"] == [{"class": "dark", "probability": 0.8}, {"class": "red", "probability": 0.2}]
    assert found[0]["file"] == str(files / "c.png")


def test_a_file_that_cannot_be_read_does_not_stop_the_others(files):
    found = lines([files / "notes.jpg", files / "gone.png", files / "b.png"])
    assert found[0]["error"] == "the file is no image that Pillow reads: it begins with 'Buy milk and'"
    assert found[1]["error"] == "No such file or directory"
    assert found[2]["class"] == "dark"


def test_folders_give_their_images_by_name_and_what_else_they_hold(files):
    (files / "below").mkdir()
    Image.new("RGB", (4, 4)).save(files / "below" / "z.jpg")
    Image.new("RGB", (4, 4)).save(files / "below" / "image", "PNG")
    for name in ("readme.txt", "photo.HEIC", ".DS_Store", "Thumbs.db", "._a.png"):
        (files / name).write_text("none")
    (files / "below" / "above").symlink_to(files)
    found = find_images([files, files / "readme.txt", "https://there/x.png"])
    assert [path.name for path in found.images[:7]] == [
        "a.png", "b.png", "image", "z.jpg", "c.png", "notes.jpg", "photo.HEIC"
    ]  # fmt: skip
    assert found.images[7:] == (files / "readme.txt", "https://there/x.png")
    assert found.others == (files / "readme.txt",)


def test_an_address_is_fetched_and_what_goes_wrong_there_stands_in_its_line(files):
    found = lines([files / "a.png", "gs://bucket/photo.png"])
    assert found[1] == {
        "file": "gs://bucket/photo.png",
        "error": "only http:// and https:// addresses are fetched; download it and give the file",
    }
    assert found[0]["class"] == "dark"
