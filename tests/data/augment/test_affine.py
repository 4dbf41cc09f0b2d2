import numpy as np
import pytest
import real_packages
import scipy.ndimage
from PIL import Image

from jaxtl.data.augment import affine
from jaxtl.data.augment.affine import FILLS, Fill, about, rotation, scaling, shearing, translation, warp, window

BILINEAR = Image.Resampling.BILINEAR
GREY = Fill("constant", (10, 200, 90))
SCIPY = {"reflect": "reflect", "nearest": "nearest", "wrap": "grid-wrap"}


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width, height, seed=0):
    """A picture without edges: what is averaged over a pixel or two hardly changes."""
    return noise(4, 3, seed).point(lambda value: 80 + value // 3).resize((width, height), Image.Resampling.BICUBIC)


def turned(image, matrix, fill=GREY, resampling=BILINEAR):
    """Transforms an image about its centre and keeps its size."""
    matrix = about((image.width / 2, image.height / 2), matrix)
    return np.asarray(warp(image, matrix, image.size, resampling=resampling, fill=fill)).astype(int)


def letters(*rows):
    """A picture of one grey value a letter."""
    values = np.array([[ord(letter) for letter in row] for row in rows], np.uint8)
    return Image.fromarray(np.repeat(values[..., None], 3, axis=2))


def spelt(image):
    return ["".join(map(chr, row)) for row in np.asarray(image)[..., 0]]


def test_a_quarter_turn_is_counter_clockwise():
    image = letters("abc", "def", "ghi")
    matrix = about((1.5, 1.5), rotation(90))
    assert spelt(warp(image, matrix, (3, 3), resampling=BILINEAR, fill=GREY)) == ["cfi", "beh", "adg"]


def test_mirrors_moves_and_whole_factors_keep_every_pixel():
    image = letters("abc", "def")
    mirrored = about((1.5, 1), scaling(-1, -1))
    assert spelt(warp(image, mirrored, (3, 2), resampling=BILINEAR, fill=GREY)) == ["fed", "cba"]
    assert spelt(warp(image, translation(-1, -1), (2, 1), resampling=BILINEAR, fill=GREY)) == ["ef"]
    nearest = Image.Resampling.NEAREST
    assert spelt(warp(image, scaling(2, 1), (6, 2), resampling=nearest, fill=GREY)) == ["aabbcc", "ddeeff"]


@pytest.mark.parametrize(
    ("mode", "row"),
    [("constant", "\n\nabc\n\n\n\n"), ("nearest", "aaabccccc"), ("reflect", "baabccbaa"), ("wrap", "bcabcabca")],
)
def test_what_lies_beyond_the_border(mode, row):
    assert spelt(window(letters("abc"), (-2, 0, 7, 1), Fill(mode, (10, 10, 10)))) == [row]
    # The same of a row that is turned by half a circle, sampled through the general transformation.
    half = about((1.5, 0.5), rotation(180))
    moved = translation(2, 0) @ half
    assert spelt(warp(letters("cba"), moved, (9, 1), resampling=BILINEAR, fill=Fill(mode, (10, 10, 10)))) == [row]


@pytest.mark.parametrize("mode", FILLS)
@pytest.mark.parametrize("seed", range(4))
def test_any_transformation_is_that_of_scipy(mode, seed):
    """Bilinear samples of the same points, and the same values beyond the border, within rounding."""
    rng = np.random.default_rng(seed)
    image = noise(int(rng.integers(9, 40)), int(rng.integers(9, 40)), seed)
    # It enlarges, so that there is one sample a pixel.
    matrix = rotation(rng.uniform(-180, 180)) @ scaling(1.1, 1.3) @ shearing(rng.uniform(-0.2, 0.2))
    matrix = translation(*rng.uniform(-30, 30, 2)) @ matrix
    out = warp(image, matrix, (50, 30), resampling=BILINEAR, fill=Fill(mode, (7, 7, 7)))
    x, y = np.meshgrid(np.arange(50) + 0.5, np.arange(30) + 0.5)
    points = np.linalg.inv(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    places = points[1::-1] - 0.5  # SciPy counts from the centre of the first pixel, rows first.
    pixels = np.asarray(image).astype(float)
    inner = np.ones(x.size, bool)
    if mode == "constant":
        # Pillow repeats the last pixel up to the border, half a pixel, before it fills; SciPy blends it with the fill.
        inside = (places > -0.499) & (places < np.array(pixels.shape[:2])[:, None] - 0.501)
        outside = (places < -0.51) | (places > np.array(pixels.shape[:2])[:, None] - 0.49)
        assert (np.asarray(out).reshape(-1, 3)[outside.any(0)] == 7).all()
        inner = inside.all(0)
    for channel in range(3):
        wanted = scipy.ndimage.map_coordinates(pixels[..., channel], places, order=1, mode=SCIPY.get(mode, "nearest"))
        difference = np.abs(np.asarray(out)[..., channel].ravel() - wanted)[inner]
        assert difference.max(initial=0) <= 1.0


def test_a_composed_transformation_is_resampled_once():
    image = noise(40, 30)
    there_and_back = rotation(-33) @ scaling(1 / 1.7, 1 / 1.7) @ shearing(-0.3) @ shearing(0.3) @ scaling(1.7, 1.7)
    np.testing.assert_array_equal(turned(image, there_and_back @ rotation(33)), np.asarray(image))


@pytest.mark.parametrize("degrees", [0, 20])
@pytest.mark.parametrize("factor", [0.5, 0.3, 0.11])
def test_a_small_view_skips_no_pixel(degrees, factor):
    """A chequerboard becomes grey; single samples would leave black and white."""
    board = np.indices((240, 240)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8))
    small = about((120, 120), scaling(factor, factor) @ rotation(degrees))
    view = np.asarray(warp(image, translation(-100, -100) @ small, (40, 40), resampling=BILINEAR, fill=GREY))
    inner = view[16:24, 16:24].astype(float)
    assert abs(inner.mean() - 127.5) < 3
    assert inner.std() < 45  # Of black and white: 127.


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("resampling", [BILINEAR, Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("degrees", [0, 1])
def test_an_image_that_becomes_a_dot_takes_no_more_memory_than_its_view(fill, resampling, degrees, monkeypatch):
    sizes = []
    filled = affine.window
    monkeypatch.setattr(affine, "window", lambda *a: sizes.append(filled(*a).size) or filled(*a))
    image = Image.new("RGB", (300, 200), (50, 60, 70))
    out = turned(image, scaling(0.01, 0.01) @ rotation(degrees), Fill(fill, (50, 60, 70)), resampling)
    assert (out == (50, 60, 70)).all()
    assert all(width < 16 * 300 and height < 16 * 300 for width, height in sizes)


@pytest.mark.parametrize("angle", [-170.0, -90.0, -12.5, 3.0, 45.0, 90.0, 130.0])
def test_rotation_is_torchvisions(angle):
    real_packages.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as real

    image = noise(48, 48)
    wanted = real.rotate(image, angle, InterpolationMode.BILINEAR, fill=list(GREY.color))
    assert np.abs(turned(image, rotation(angle)) - np.asarray(wanted)).max() <= 1


@pytest.mark.parametrize(
    ("angle", "move", "scale", "shear"),
    [(0, (7, -5), 1.0, 0), (0, (0, 0), 1.3, 0), (0, (0, 0), 1.0, 25), (-20, (3, 4), 1.2, -15), (60, (-8, 0), 0.95, 10)],
)
def test_affine_transformations_are_torchvisions(angle, move, scale, shear):
    """Everywhere but at the border of the fill, which torchvision leaves hard and a resize blends."""
    torchvision_affine(noise(48, 48), angle, move, scale, shear)


@pytest.mark.parametrize("scale", [0.8, 0.7])
@pytest.mark.parametrize("angle", [0, 30])
def test_a_zoom_out_is_torchvisions_where_that_skips_nothing(scale, angle):
    """On a picture without edges: of others torchvision skips pixels, which are averaged here."""
    torchvision_affine(smooth(240, 240), angle, (2, 1), scale, 10 if angle else 0)


def torchvision_affine(image, angle, move, scale, shear):
    real_packages.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as real

    options = {"translate": list(move), "scale": scale, "shear": [shear, 0.0]}
    wanted = real.affine(image, angle, **options, interpolation=InterpolationMode.BILINEAR, fill=list(GREY.color))
    # torchvision's affine turns clockwise, its rotate does not; and it shears to the left.
    slope = -np.tan(np.radians(shear))
    matrix = translation(*move) @ about(
        (image.width / 2,) * 2, rotation(-angle) @ scaling(scale, scale) @ shearing(slope)
    )
    out = warp(image, matrix, image.size, resampling=BILINEAR, fill=GREY)
    inside = warp(Image.new("RGB", image.size, (255,) * 3), matrix, image.size, resampling=BILINEAR, fill=Fill())
    inside = scipy.ndimage.binary_erosion(np.asarray(inside)[..., 0] == 255, iterations=2, border_value=1)
    assert inside.mean() > 0.3
    difference = np.abs(np.asarray(out).astype(int) - np.asarray(wanted))
    assert difference[inside].max() <= 1
    outside = warp(
        Image.new("RGB", image.size), matrix, image.size, resampling=BILINEAR, fill=Fill("constant", (255,) * 3)
    )
    outside = scipy.ndimage.binary_erosion(np.asarray(outside)[..., 0] == 255, iterations=2, border_value=1)
    assert not difference[outside].any()
