import numpy as np
import pytest
from PIL import Image

from jaxtl.deploy.images import find_images, read_view, to_items
from jaxtl.errors import UserError


@pytest.fixture
def files(tmp_path):
    for number, name in enumerate(["a.png", "b.png", "c.png"]):
        Image.new("RGB", (6, 4), (10 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.jpg").write_text("Buy milk and")
    return tmp_path


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


def test_what_one_image_may_be_and_what_several(files):
    pixels, picture = np.zeros((4, 6, 3), np.uint8), Image.new("RGB", (6, 4))
    for one in (
        files / "a.png",
        str(files / "a.png"),
        "https://there/x.png",
        pixels,
        pixels[..., 0],
        picture,
        b"bytes",
    ):
        assert to_items(one)[1]
        assert len(to_items(one)[0]) == 1
    items, single = to_items([files, pixels, np.stack([pixels, pixels]), picture])
    assert (len(items), single) == (4 + 1 + 2 + 1, False)
    assert to_items(str(files)) == ([files / name for name in ("a.png", "b.png", "c.png", "notes.jpg")], False)
    assert to_items(path for path in [files / "a.png"]) == ([files / "a.png"], False)
    assert to_items([]) == ([], False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 6, 3), np.float32), r"float32 \[4, 6, 3\], expected uint8 .*; pixels are whole numbers"),
        (np.zeros((2, 3, 4, 6), np.uint8), r"uint8 \[2, 3, 4, 6\], expected uint8 .*; channels come last"),
        (np.zeros((3, 4, 6), np.uint8), "channels come last"),
        (np.zeros(5, np.uint8), r"uint8 \[5\], expected uint8"),
        (7, "int is no image"),
        (None, "NoneType is no image"),
    ],
)
def test_what_is_no_image_is_told(given, message):
    with pytest.raises(UserError, match=message):
        to_items(given)


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no image file in"):
        to_items(tmp_path)


def test_all_kinds_of_one_image_give_one_view(files):
    expected = np.full((4, 6, 3), (10, 0, 0), np.uint8)
    # As a phone writes it: lying, with a note that says so.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(expected)).save(files / "turned.png", exif=exif)
    with Image.open(files / "b.png") as picture, Image.open(files / "turned.png") as turned:
        items = (files / "b.png", (files / "b.png").read_bytes(), picture, expected, files / "turned.png", turned)
        for item in items:
            np.testing.assert_array_equal(read_view(item, np.asarray), expected)


def test_why_an_item_cannot_be_read(files):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(files / "short.png")
    short = (files / "short.png").read_bytes()[:5000]
    (files / "short.png").write_bytes(short)
    assert read_view(files / "gone.png", np.asarray) == "No such file or directory"
    assert read_view(files / "notes.jpg", np.asarray).startswith("the file is no image that Pillow reads")
    assert "cannot be decoded" in read_view(short, np.asarray)
    with Image.open(files / "short.png") as image:
        assert "cannot be decoded" in read_view(image, np.asarray)
    assert "range is not fixed" in read_view(Image.new("F", (4, 4)), np.asarray)
