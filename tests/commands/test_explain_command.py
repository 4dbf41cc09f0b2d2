import re
import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain / "run", tmp_path / "run")


def test_a_picture_for_each_image_and_a_page_with_the_class_that_predict_names(jaxtl, run, pictures):
    files = sorted(str(path) for path in (pictures / "test").rglob("*.png"))
    status, out, err = jaxtl("explain", f"--workdir={run}", pictures / "test")
    assert (status, err) == (0, "")
    *lines, page = out.splitlines()
    assert page == str(run / "explain" / "index.html")
    predicted = [
        line.partition('"class": "')[2].partition('"')[0]
        for line in jaxtl("predict", f"--workdir={run}", *files)[1].splitlines()
    ]
    for line, file, name in zip(lines, files, predicted, strict=True):
        assert re.fullmatch(rf"{re.escape(file)}: {name} [\d.]+ %, (.*\.png)", line)
        with Image.open(line.rpartition(", ")[2]) as picture:
            assert picture.size == (16, 16)
    # Images of three folders have the same name.
    written = sorted(path.name for path in (run / "explain").glob("100*"))
    assert written == [f"100{number}_gradient_attention.png" for number in ("-2", "-3", "")]
    text = (run / "explain" / "index.html").read_text()
    assert text.count("<img ") == text.count("alt=") == 2 * len(files)
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)
    assert f'alt="gradient-weighted attention over {files[0]}, for {predicted[0]}"' in text


def test_a_page_of_somebody_else_stays(jaxtl, run, pictures, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>my home</h1>")
    status, _, err = jaxtl("explain", f"--workdir={run}", f"--output={tmp_path / 'site'}", pictures / "test")
    assert status == 1
    assert "index.html was not written by explain: give another folder" in err
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    # A page of before gives way.
    again = ("explain", f"--workdir={run}", pictures / "test" / "red" / "100.png")
    assert [jaxtl(*again)[0] for _ in range(2)] == [0, 0]


def test_another_class_another_map_and_what_cannot_be_read(jaxtl, run, pictures, tmp_path):
    good = pictures / "test" / "red" / "100.png"
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pictures_of = {}
    for name in ("red", "blue"):
        flags = ("--method=grad_cam", "--group=embed", f"--class={name}", f"--output={tmp_path / name}")
        status, out, err = jaxtl("explain", f"--workdir={run}", *flags, tmp_path / "bad.jpg", good)
        assert (status, err) == (
            1,
            f"{tmp_path}/bad.jpg: the file is no image that Pillow reads: it begins with 'no picture'\n",
        )
        assert len(out.splitlines()) == 2
        with Image.open(tmp_path / name / "100_grad_cam.png") as picture:
            pictures_of[name] = np.asarray(picture)
    assert not np.array_equal(pictures_of["red"], pictures_of["blue"])
    status, out, err = jaxtl("explain", f"--workdir={run}", tmp_path / "bad.jpg", f"--output={tmp_path / 'none'}")
    assert (status, out) == (1, "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class=gren"], "the run knows no class 'gren'; did you mean 'green' or 'red'?"),
        (["--class=tulip"], "the run knows no class 'tulip'; it knows blue, green, red."),
        (["--class=red", "--method=rollout"], "'rollout' gives the same map for every class: leave the class out."),
        (["--method=gradcam"], "there is no method 'gradcam'; did you mean 'grad_cam'? choose grad_cam, rollout, "),
        (["--group=block9", "--method=grad_cam"], "'block9' is none of the model; Grad-CAM can look at embed, block0."),
        (["--output=run/config.json"], "run/config.json is a file: give a folder to write to."),
        (["--group=block0"], "group 'block0' is for grad_cam alone, and the method is 'gradient_attention'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_and_nothing_is_written(jaxtl, run, pictures, flags, message):
    status, out, err = jaxtl("explain", f"--workdir={run}", *flags, pictures / "test" / "red" / "100.png")
    assert (status, out) == (1, "")
    assert message in err
    assert not (run / "explain").exists()
