import numpy as np
import pytest
import real_packages
from PIL import Image

from jaxtl.data.augment import Augmentation, color, filters


def noise(side=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def one(*rgb):
    return Image.new("RGB", (1, 1), rgb)


def changed(image, seed=0, **options):
    return color.jitter(image, np.random.default_rng(seed), Augmentation(**options))


def torchvision_functional():
    real_packages.torchvision()
    from torchvision.transforms.v2 import functional

    return functional


class Scripted:
    """A generator whose factors are given; the order is that of the names."""

    def __init__(self, factors, share=0.0):
        self.answers = [np.array(factors)] + [share] * (share != 0.0)

    def uniform(self, low, high):
        answer = self.answers.pop(0)
        assert (np.asarray(low) <= answer).all()
        assert (answer <= np.asarray(high)).all()
        return answer

    def permutation(self, count):
        return np.arange(count)


@pytest.mark.parametrize(
    ("name", "factors", "before", "after"),
    [
        ("brightness", (1.5, 1, 1), (100, 40, 200), (150, 60, 255)),
        ("brightness", (0.5, 1, 1), (100, 40, 200), (50, 20, 100)),
        # The mean luma of the only pixel is 29.9 + 23.48 + 22.8 = 76, about which contrast grows.
        ("contrast", (1, 2.0, 1), (100, 40, 200), (124, 4, 255)),
        ("saturation", (1, 1, 0.0), (100, 40, 200), (76, 76, 76)),
        ("saturation", (1, 1, 2.0), (100, 76, 76), (117, 69, 69)),
    ],
)
def test_each_factor(name, factors, before, after):
    out = color.jitter(one(*before), Scripted(factors), Augmentation(**{name: 1.0})).getpixel((0, 0))
    assert np.abs(np.array(out) - after).max() <= 1


def test_a_third_of_the_circle_makes_red_green_and_green_blue():
    assert color.shift_hue(one(255, 0, 0), 1 / 3).getpixel((0, 0)) == (0, 255, 0)
    assert color.shift_hue(one(0, 255, 0), 1 / 3).getpixel((0, 0)) == (0, 0, 255)
    # Pillow's circle has 256 steps of 1/255: once around, blue is a step too far.
    assert color.shift_hue(one(255, 0, 0), -1 / 3).getpixel((0, 0)) == (6, 0, 255)
    assert color.shift_hue(one(9, 9, 9), 0.4).getpixel((0, 0)) == (9, 9, 9)


def test_grayscale_keeps_the_luma():
    assert color.grayscale(one(255, 0, 0)).getpixel((0, 0)) == (76, 76, 76)
    assert color.grayscale(one(0, 255, 0)).getpixel((0, 0)) == (150, 150, 150)


def test_a_factor_of_its_own_goes_before_that_of_all():
    """The draws are those of color_jitter: only how far they reach differs."""
    image = noise()
    np.testing.assert_array_equal(
        changed(image, color_jitter=0.4), changed(image, brightness=0.4, contrast=0.4, saturation=0.4)
    )
    assert not np.array_equal(changed(image, color_jitter=0.4), changed(image, color_jitter=0.4, brightness=0.1))
    np.testing.assert_array_equal(changed(image), image)


@pytest.mark.parametrize("seed", range(3))
def test_saturation_and_hue_leave_a_grey_picture_as_it_is(seed):
    grey = color.grayscale(noise())
    np.testing.assert_array_equal(changed(grey, seed, saturation=0.9, hue=0.5), grey)


@pytest.mark.parametrize(
    ("name", "real", "factor"),
    [
        ("brightness", "adjust_brightness", 1.6),
        ("brightness", "adjust_brightness", 0.3),
        ("contrast", "adjust_contrast", 1.7),
        ("contrast", "adjust_contrast", 0.2),
        ("saturation", "adjust_saturation", 1.9),
        ("saturation", "adjust_saturation", 0.4),
    ],
)
def test_factors_are_torchvisions(name, real, factor):
    """Of its PIL functions to the bit, and within 2 of those on tensors, which are written without Pillow.

    Those round the grey picture to whole values at another place than Pillow does, and the factor doubles that.
    """
    functional = torchvision_functional()
    image = noise()
    factors = [factor if name == own else 1.0 for own in ("brightness", "contrast", "saturation")]
    ours = np.asarray(color.jitter(image, Scripted(factors), Augmentation(**{name: 1.0}))).astype(int)
    np.testing.assert_array_equal(ours, getattr(functional, real)(image, factor))
    tensor = getattr(functional, real)(functional.pil_to_tensor(image), factor).permute(1, 2, 0).numpy()
    assert np.abs(ours - tensor).max() <= 2


@pytest.mark.parametrize("share", [-0.5, -0.21, 0.004, 0.1, 1 / 3, 0.5])
def test_hue_and_grayscale_are_torchvisions(share):
    functional = torchvision_functional()
    image = noise()
    np.testing.assert_array_equal(color.shift_hue(image, share), functional.adjust_hue(image, share))
    np.testing.assert_array_equal(color.grayscale(image), functional.rgb_to_grayscale(image, 3))


def test_a_blur_spreads_one_pixel_as_a_gaussian():
    view = np.zeros((9, 9, 3), np.uint8)
    view[4, 4] = 255
    blurred = filters.gaussian_blur(view, 1.0)
    # 255 / (2 pi) at the centre, and e^(-1/2) of that beside it.
    assert blurred[4, 4].tolist() == [41, 41, 41]
    assert blurred[4, 5, 0] == blurred[3, 4, 0] == 25
    flat = np.full((5, 5, 3), 77, np.uint8)
    np.testing.assert_array_equal(filters.gaussian_blur(flat, 3.0), flat)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_a_blur_is_torchvisions(sigma):
    functional = torchvision_functional()
    image = noise()
    size = 2 * max(1, int(np.ceil(3 * sigma))) + 1
    wanted = functional.gaussian_blur(functional.pil_to_tensor(image), [size, size], [sigma, sigma])
    ours = filters.gaussian_blur(np.asarray(image), sigma).astype(int)
    assert np.abs(ours - wanted.permute(1, 2, 0).numpy()).max() <= 1


def test_noise_has_the_asked_spread_and_stays_in_range():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = filters.gaussian_noise(grey, 0.1, np.random.default_rng(0)).astype(float)
    assert abs(noisy.mean() - 128) < 0.3
    assert abs(noisy.std() - 25.5) < 0.3
    white = filters.gaussian_noise(np.full((50, 50, 3), 255, np.uint8), 0.1, np.random.default_rng(0))
    assert white.max() == 255
    assert white.min() > 100  # Nothing begins again at 0.


def test_noise_spreads_as_torchvisions():
    functional = torchvision_functional()
    import torch

    torch.manual_seed(0)
    # Of whole numbers torchvision cuts the noise towards 0, so it is asked for fractions.
    real = 255 * functional.gaussian_noise(torch.full((3, 200, 200), 0.4), 0.0, 0.05).numpy()
    ours = filters.gaussian_noise(np.full((200, 200, 3), 102, np.uint8), 0.05, np.random.default_rng(0))
    assert abs(real.mean() - ours.mean()) < 0.2
    assert abs(real.std() - ours.std()) < 0.2


def test_an_erased_box_has_the_asked_area_and_colour():
    view = np.asarray(noise(100))
    seen = set()
    for seed in range(50):
        out = filters.erase(view, np.random.default_rng(seed), area=(0.1, 0.2), color=(1, 2, 3))
        rows, columns = np.nonzero((out != view).any(-1))
        box = out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box == (1, 2, 3)).all()
        assert 0.09 < box.shape[0] * box.shape[1] / 10_000 < 0.21
        assert 0.27 < box.shape[0] / box.shape[1] < 3.7
        seen.add((rows.min(), columns.min()))
    assert len(seen) > 40
    np.testing.assert_array_equal(view, np.asarray(noise(100)))


def test_a_box_that_fits_nowhere_erases_nothing():
    view = np.asarray(noise(10))
    # An area of 1 and a square alone would fit, which is never drawn exactly.
    out = filters.erase(view, np.random.default_rng(0), area=(1.0, 1.0), color=(1, 2, 3))
    np.testing.assert_array_equal(out, view)
