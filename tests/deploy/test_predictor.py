import threading
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxtl.data import eval_view
from jaxtl.deploy.judge import Judge
from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.programs import Programs
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(4, 4, (0.0,) * 3, (1.0,) * 3, "nearest")


@pytest.fixture
def files(tmp_path):
    for number, name in enumerate(["a.png", "b.png", "c.png"]):
        Image.new("RGB", (6, 4), (10 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.jpg").write_text("Buy milk and")
    return tmp_path


def brightness(variables, images):
    """Gives logits by which the probability of class 1 is how red the first pixel is, of 100."""
    red = images[:, 0, 0, 0] / 100
    return variables * jnp.log(jnp.stack([1 - red, jnp.maximum(red, 1e-9)], axis=1))


def means(variables, images):
    return variables * images.mean((1, 2))


@pytest.fixture
def predictor():
    return Predictor(
        "a test",
        Judge(("dark", "red")),
        partial(eval_view, pixels=PIXELS),
        Programs(brightness, np.float32(1), 2),
        Programs(means, np.float32(1), 2),
    )


def test_each_file_gets_a_line_in_order(predictor, files):
    found = predictor([files / name for name in ("c.png", "a.png", "b.png")])
    assert [line["probability"] for line in found] == [0.8, 1.0, 0.9]
    assert [line["class"] for line in found] == ["dark"] * 3
    assert found[0]["top5"] == [{"class": "dark", "probability": 0.8}, {"class": "red", "probability": 0.2}]
    assert found[0]["file"] == str(files / "c.png")
    assert list(predictor.lines([files / "c.png"])) == found[:1]


def test_one_image_gives_one_answer_whatever_it_comes_as(predictor, files):
    from_file = predictor(files / "c.png")
    assert from_file.pop("file") == str(files / "c.png")
    pixels = np.asarray(Image.open(files / "c.png"))
    for image in (Image.open(files / "c.png"), pixels, (files / "c.png").read_bytes(), jnp.asarray(pixels)):
        assert predictor(image) == from_file
    assert predictor(np.stack([pixels] * 3)) == [{"index": i, **from_file} for i in range(3)]
    assert predictor(pixels, top=1)["top1"] == [{"class": "dark", "probability": 0.8}]


def test_a_file_that_cannot_be_read_does_not_stop_the_others(predictor, files):
    found = predictor([files / "notes.jpg", files / "gone.png", b"", files / "b.png"])
    assert found[0]["error"] == "the file is no image that Pillow reads: it begins with 'Buy milk and'"
    assert found[1]["error"] == "No such file or directory"
    assert found[2] == {"index": 2, "error": "the file is empty (0 bytes); replace it or remove it"}
    assert found[3]["class"] == "dark"
    # Alone, it is an error of the call.
    with pytest.raises(UserError, match=r"notes.jpg: the file is no image that Pillow reads"):
        predictor(files / "notes.jpg")


def test_in_a_list_what_is_no_image_has_an_entry_that_says_so(predictor, files):
    found = predictor([files / "b.png", None, np.zeros((0, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
    assert found[0]["class"] == "dark"
    assert [line["error"].split(",")[0] for line in found[1:3]] == [
        "NoneType is no image: give a file",
        "the array is uint8 [0",
    ]
    assert found[3]["error"].startswith("the array is float32 [4, 4, 3], expected uint8")
    assert found[3]["index"] == 3


def test_logits_that_are_no_numbers_are_an_error_and_no_class(files):
    def broken(variables, images):
        return variables * jnp.where(images[:, 0, 0, :2] > 15, jnp.nan, 1)

    programs = Programs(broken, np.float32(1), 2)
    predictor = Predictor("a test", Judge(("dark", "red")), partial(eval_view, pixels=PIXELS), programs, programs)
    found = predictor([files / "b.png", files / "c.png"])
    assert found[0]["class"] == "dark"
    assert found[1]["error"].startswith("its logits are not finite")
    with pytest.raises(UserError, match=r"c\.png: its logits are not finite"):
        predictor(files / "c.png")


def test_an_address_is_fetched_and_what_goes_wrong_there_stands_in_its_line(predictor, files):
    found = predictor([files / "a.png", "gs://bucket/photo.png"])
    assert found[1] == {
        "file": "gs://bucket/photo.png",
        "error": "only http:// and https:// addresses are fetched; download it and give the file",
    }
    assert found[0]["class"] == "dark"


def test_logits_and_features(predictor, files):
    np.testing.assert_allclose(predictor.logits(files / "c.png"), np.log([0.8, 0.2]), rtol=1e-6)
    assert predictor.logits([files / "c.png"] * 5).shape == (5, 2)
    np.testing.assert_allclose(predictor.features([files / "b.png", files / "c.png"]), [[10, 0, 0], [20, 0, 0]])
    with pytest.raises(UserError, match=r"notes.jpg: the file is no image"):
        predictor.features([files / "c.png", files / "notes.jpg"])
    with pytest.raises(UserError, match="there are no images"):
        predictor.logits([])


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "3"])
def test_a_top_that_is_no_number_of_classes(predictor, top):
    with pytest.raises(UserError, match=r"top is .*, but it must be a whole number above 0"):
        predictor(np.zeros((4, 4, 3), np.uint8), top=top)


def test_threads_get_what_one_alone_gets(predictor, files):
    places = [files / name for name in ("a.png", "b.png", "c.png", "notes.jpg")]
    expected, found = predictor(places), []
    threads = [threading.Thread(target=lambda: found.extend(predictor(places) for _ in range(5))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 60


def test_warm_up_compiles_all_sizes(predictor):
    predictor.warm_up()
    assert predictor.programs.compiled == predictor.programs.sizes == (1, 2)
