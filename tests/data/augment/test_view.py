import numpy as np
import pytest
import real_packages
from PIL import Image, ImageEnhance, ImageOps

from jaxtl.data.augment import CROPS, FILLS, POLICIES, PRESETS, Augmentation, random_box, train_view
from jaxtl.data.augment.presets import DEFAULTS, with_preset
from jaxtl.data.decode import decode, eval_view
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(32, 40, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def view(image: Image.Image, seed: int = 0, **options) -> np.ndarray:
    return train_view(image, PIXELS, np.random.default_rng(seed), Augmentation(**options))


@pytest.mark.parametrize("crop", CROPS)
def test_views_are_squares_and_pure_functions_of_the_generator(crop):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = noise(int(rng.integers(5, 120)), int(rng.integers(5, 120)), seed)
        before = np.array(image)
        first = view(image, seed, crop=crop, color_jitter=0.4)
        assert first.shape == (32, 32, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, view(image, seed, crop=crop, color_jitter=0.4))
        np.testing.assert_array_equal(np.array(image), before)


@pytest.mark.parametrize("crop", ["random_resized", "resize_crop", "pad_crop"])
def test_views_differ_from_draw_to_draw(crop):
    image = noise(64, 64)
    views = {view(image, seed, crop=crop, resize=64, flip=0.0).tobytes() for seed in range(8)}
    assert len(views) >= 7


def test_none_is_the_view_of_evaluation():
    image = noise(50, 70)
    np.testing.assert_array_equal(view(image, crop="none", flip=0.0), eval_view(image, PIXELS))


def test_flip():
    image = noise(50, 70)
    plain = view(image, crop="none", flip=0.0)
    np.testing.assert_array_equal(view(image, crop="none", flip=1.0), plain[:, ::-1])
    mirrored = [np.array_equal(view(image, seed, crop="none"), plain[:, ::-1]) for seed in range(200)]
    assert 70 < sum(mirrored) < 130


def test_boxes_lie_inside_and_have_the_asked_shape():
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = rng.integers(40, 300, size=2).tolist()
        left, top, right, bottom = random_box(width, height, rng, scale=SCALE, ratio=RATIO)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Rounding to whole pixels and the fallback's whole side leave a little over the exact ranges.
        assert 0.07 < (right - left) * (bottom - top) / (width * height) <= 1.0
        assert 0.7 < (right - left) / (bottom - top) < 1.43


def test_boxes_spread_over_area_and_aspect():
    rng = np.random.default_rng(1)
    boxes = np.array([random_box(1000, 1000, rng, scale=(0.08, 0.5), ratio=RATIO) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    np.testing.assert_allclose((w * h).mean() / 1e6, 0.29, atol=0.01)
    np.testing.assert_allclose(np.log(w / h).mean(), 0.0, atol=0.01)
    np.testing.assert_allclose((boxes[:, 0] / (1000 - w)).mean(), 0.5, atol=0.02)


def test_thin_images_give_the_largest_central_box():
    rng = np.random.default_rng(0)
    assert random_box(1000, 9, rng, scale=(0.9, 1.0), ratio=RATIO) == (494, 0, 506, 9)
    assert random_box(9, 1000, rng, scale=(0.9, 1.0), ratio=RATIO) == (0, 494, 9, 506)
    assert random_box(1, 1, rng, scale=SCALE, ratio=RATIO) == (0, 0, 1, 1)


def test_random_resized_of_the_whole_image_is_a_resize():
    image = noise(60, 60)
    whole = view(image, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    np.testing.assert_array_equal(whole, np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))


def test_resize_crop_is_a_square_of_the_resized_image():
    image = noise(80, 40)
    resized = np.asarray(image.resize((96, 48), Image.Resampling.BILINEAR))
    crop = view(image, crop="resize_crop", resize=48, flip=0.0)
    squares = np.lib.stride_tricks.sliding_window_view(resized, (32, 32, 3))
    assert (squares == crop).all(axis=(-1, -2, -3)).sum() == 1
    # By itself it resizes to round(32 * 8 / 7) = 37.
    resized = np.asarray(image.resize((74, 37), Image.Resampling.BILINEAR))
    squares = np.lib.stride_tricks.sliding_window_view(resized, (32, 32, 3))
    assert (squares == view(image, crop="resize_crop", flip=0.0)).all(axis=(-1, -2, -3)).sum() == 1
    with pytest.raises(UserError, match=r"resize is 20 pixels, below the crop's 32"):
        view(image, crop="resize_crop", resize=20)


def test_pad_crop_shifts_the_view_of_evaluation_into_black():
    image = noise(32, 32)
    pixels = Pixels(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    seen = set()
    for seed in range(300):
        crop = train_view(image, pixels, np.random.default_rng(seed), Augmentation(crop="pad_crop", flip=0.0))
        ((top, left, _),) = np.argwhere(
            (np.lib.stride_tricks.sliding_window_view(padded, (32, 32, 3)) == crop).all(axis=(-1, -2, -3))
        )
        seen.add((int(top), int(left)))
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(9))


def test_color_jitter_keeps_a_grey_picture_grey_and_zero_changes_nothing():
    image = noise(32, 32)
    np.testing.assert_array_equal(view(image, color_jitter=0.0), view(image))
    assert not np.array_equal(view(image, color_jitter=0.4), view(image))
    grey = image.convert("L").convert("RGB")
    jittered = view(grey, color_jitter=0.8)
    np.testing.assert_array_equal(jittered[..., 0], jittered[..., 2])


def test_unknown_crop():
    with pytest.raises(UserError, match="crop is 'center', but it must be one of: 'random_resized', 'resize_crop'"):
        view(noise(32, 32), crop="center")


def test_a_reduced_photograph_gives_nearly_the_same_view(shared):
    file = sorted((shared / "datasets/oxford_flowers12/test").glob("daisy/*.jpg"))[0]
    full = decode(file.read_bytes())
    reduced = decode(file.read_bytes(), min_side=80)
    assert reduced.size == (112, 112)
    for seed in range(5):
        a = view(full, seed, scale=(0.5, 1.0)).astype(float)
        b = view(reduced, seed, scale=(0.5, 1.0)).astype(float)
        assert np.abs(a - b).mean() < 6


def before(image, pixels, rng, a):
    """Draws a view as jaxtl did when it knew crop, flip and color_jitter only."""
    resampling, side = Image.Resampling.BILINEAR, pixels.size

    def square(image):
        left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
        return image.crop((left, top, left + side, top + side))

    if a.crop == "random_resized":
        box = random_box(image.width, image.height, rng, scale=a.scale, ratio=a.ratio)
        out = image.resize((side, side), resampling, box=box)
    elif a.crop == "resize_crop":
        shorter, short = round(side * 8 / 7), min(image.size)
        out = square(image.resize(tuple(int(shorter * length / short) for length in image.size), resampling))
    else:
        out = Image.fromarray(eval_view(image, pixels))
        out = square(ImageOps.expand(out, a.pad)) if a.crop == "pad_crop" else out
    if rng.random() < a.flip:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if a.color_jitter:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factors = rng.uniform(max(0.0, 1 - a.color_jitter), 1 + a.color_jitter, size=3)
        for i in rng.permutation(3):
            out = enhancers[i](out).enhance(float(factors[i]))
    return np.asarray(out)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_without_the_newer_fields_views_are_what_they_always_were(crop, jitter):
    """To the bit, and so is what the generator gives next: a run of an earlier version goes on as it began."""
    for seed in range(20):
        image, a = noise(60 + seed, 90 - 2 * seed, seed), Augmentation(crop=crop, color_jitter=jitter)
        ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
        np.testing.assert_array_equal(train_view(image, PIXELS, ours, a), before(image, PIXELS, theirs, a))
        assert ours.random() == theirs.random()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fill", FILLS)
def test_any_combination_is_a_pure_function_of_image_and_generator(preset, policy, fill):
    strong = {"rotate": 40.0, "shear": 20.0, "zoom": 0.5, "translate": 0.3, "noise": 0.02, "blur": 0.5, "hue": 0.2}
    a = Augmentation(**with_preset(preset, {**DEFAULTS, **strong, "policy": policy, "fill": fill}))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = noise(int(rng.integers(3, 90)), int(rng.integers(3, 90)), seed)
        pristine = np.array(image)
        first, second = (train_view(image, PIXELS, np.random.default_rng(seed), a) for _ in range(2))
        assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(np.array(image), pristine)


WHOLE = Pixels(48, 48, (10 / 255, 200 / 255, 90 / 255), (1.0, 1.0, 1.0), "bilinear")
"""The view is the image, and the fill of its mean colour (10, 200, 90)."""


@pytest.mark.parametrize("seed", range(6))
def test_the_drawn_angle_shear_factor_and_move_are_applied_as_torchvision_applies_them(seed):
    """On a view that is the whole image, enlarged, where each side is one sample a pixel; borders are compared too."""
    real_packages.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as real

    image = noise(48, 48, seed)
    a = Augmentation(crop="none", flip=0.0, rotate=30.0, shear=20.0, zoom=0.05, translate=0.2)
    rng = np.random.default_rng(seed)
    rng.random()  # Whether it is mirrored.
    angle, shear = rng.uniform(-30, 30), rng.uniform(-20, 20)
    scale, move = rng.uniform(0.95, 1.05), 48 * rng.uniform(-0.2, 0.2, size=2)
    # torchvision's affine turns clockwise and shears to the left.
    options = {"angle": -angle, "translate": move.tolist(), "scale": scale, "shear": [-shear, 0.0]}
    wanted = real.affine(image, **options, interpolation=InterpolationMode.BILINEAR, fill=[10, 200, 90])
    out = train_view(image, WHOLE, np.random.default_rng(seed), a)
    difference = np.abs(out.astype(int) - np.asarray(wanted)).max(-1)
    # Rounding decides on which side of the border a handful of pixels lie.
    assert (difference > 1).sum() <= 3


def test_a_rotated_crop_shows_the_image_beyond_it_and_fills_only_where_the_image_ends():
    pixels = Pixels(32, 64, (1.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    image = Image.new("RGB", (90, 64), (0, 0, 255))
    inside = train_view(image, pixels, np.random.default_rng(1), Augmentation(crop="none", flip=0.0, rotate=45.0))
    assert (inside == (0, 0, 255)).all()
    moved = Augmentation(crop="none", flip=0.0, rotate=1.0, translate=1.0)
    views = [train_view(image, pixels, np.random.default_rng(seed), moved) for seed in range(20)]
    colours = {tuple(pixel) for out in views for pixel in out.reshape(-1, 3).tolist()}
    assert colours == {(0, 0, 255), (255, 0, 0)}


@pytest.mark.parametrize(
    ("options", "colour"),
    [({}, (255, 0, 0)), ({"fill_color": (0.0, 1.0, 0.2)}, (0, 255, 51)), ({"crop": "pad_crop"}, (0, 0, 0))],
)
def test_the_colour_of_the_fill(options, colour):
    pixels = Pixels(32, 32, (1.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    a = Augmentation(**{"crop": "none", "flip": 0.0, "translate": 1.0, "rotate": 1.0, **options})
    views = [train_view(Image.new("RGB", (32, 32), (0, 0, 255)), pixels, np.random.default_rng(s), a) for s in range(9)]
    assert {tuple(pixel) for out in views for pixel in out.reshape(-1, 3).tolist()} == {(0, 0, 255), colour}


def test_pad_crop_fills_as_asked():
    pixels = Pixels(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    image = noise(8, 8)
    for mode, name in (("reflect", "symmetric"), ("wrap", "wrap"), ("nearest", "edge")):
        padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode=name)
        squares = np.lib.stride_tricks.sliding_window_view(padded, (8, 8, 3))
        for seed in range(10):
            a = Augmentation(crop="pad_crop", flip=0.0, fill=mode)
            out = train_view(image, pixels, np.random.default_rng(seed), a)
            assert (squares == out).all(axis=(-1, -2, -3)).any()


def test_an_upright_zoom_is_one_antialiased_resize_of_the_box():
    """The interpolation of the weights, and no pixel of the image skipped, as where nothing is zoomed."""
    pixels = Pixels(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")
    image = noise(200, 200)
    a, enlarged = Augmentation(crop="none", flip=0.0, zoom=0.5), 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rng.random()  # Whether it is mirrored.
        half = 100 / rng.uniform(0.5, 1.5)
        if half > 100:
            continue
        enlarged += 1
        box = (100 - half, 100 - half, 100 + half, 100 + half)
        wanted = image.resize((32, 32), Image.Resampling.BICUBIC, box=box)
        out = train_view(image, pixels, np.random.default_rng(seed), a)
        np.testing.assert_allclose(out.astype(int), np.asarray(wanted), atol=1)
    assert enlarged > 2


def test_flips_are_part_of_the_one_transformation():
    image = noise(60, 50)
    plain = view(image, crop="none", flip=0.0, zoom=0.3)
    # The flip draws the same number either way, so the zoom is the same.
    np.testing.assert_array_equal(view(image, crop="none", flip=1.0, zoom=0.3), plain[:, ::-1])
    half = view(image, crop="none", flip=1.0, rotate=30.0).astype(int)
    assert (
        np.abs(half - view(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), crop="none", flip=0.0, rotate=30.0)).mean()
        < 2
    )
    upside_down = view(image, crop="none", flip=0.0, vertical_flip=1.0)
    np.testing.assert_array_equal(upside_down, eval_view(image, PIXELS)[::-1])
