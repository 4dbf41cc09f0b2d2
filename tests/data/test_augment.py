import numpy as np
import pytest
from PIL import Image

from jaxtl.data.augment import CROPS, Augmentation, random_box, train_view
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
