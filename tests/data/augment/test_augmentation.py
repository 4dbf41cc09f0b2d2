"""Which values an augmentation may have, and what it says of itself."""

import math
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from jaxtl.data.augment import Augmentation, train_view
from jaxtl.data.decode import eval_view
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(32, 40, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def view(image: Image.Image, seed: int = 0, **options) -> np.ndarray:
    return train_view(image, PIXELS, np.random.default_rng(seed), Augmentation(**options))


# A value of each field that makes views differ, and the fields that only say how those do.
ACTIVE = {
    "flip": 0.5,
    "vertical_flip": 0.5,
    "rotate": 20.0,
    "shear": 20.0,
    "zoom": 0.3,
    "translate": 0.2,
    "color_jitter": 0.5,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.3,
    "grayscale": 0.5,
    "blur": 0.9,
    "noise": 0.1,
    "erase": 0.9,
    "policy": "trivialaugment",
}
MODIFIERS = ("crop", "scale", "ratio", "resize", "pad", "fill", "fill_color", "blur_sigma", "erase_area")
MODIFIERS += ("num_ops", "magnitude")


def test_every_field_is_known_here():
    assert {field.name for field in fields(Augmentation)} == {*ACTIVE, *MODIFIERS}


@pytest.mark.parametrize("name", ACTIVE)
def test_what_is_drawn_is_not_plain_and_changes_views(name):
    plain = {"crop": "none", "flip": 0.0}
    assert Augmentation(**plain).is_plain
    drawn = {**plain, name: ACTIVE[name]}
    assert not Augmentation(**drawn).is_plain
    image = noise(50, 70)
    assert any((view(image, seed, **drawn) != eval_view(image, PIXELS)).any() for seed in range(8))
    # A picture of one colour stays in range and in form.
    assert view(Image.new("RGB", (9, 99), (200, 10, 10)), **drawn).shape == (32, 32, 3)


def test_images_are_decoded_large_enough_for_what_is_enlarged():
    pixels = Pixels(100, 114, (0.0,), (1.0,), "bilinear")
    assert Augmentation(scale=(0.08, 1.0)).min_side(pixels) == math.ceil(100 / math.sqrt(0.08)) == 354
    assert Augmentation(scale=(0.08, 1.0), zoom=0.5).min_side(pixels) == 531
    assert Augmentation(crop="none", zoom=0.5).min_side(pixels) == 228


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5, but it must be a probability, between 0 and 1."),
        ({"rotate": -3.0}, "rotate is -3.0, but it must be degrees between 0 and 180."),
        (
            {"zoom": 1.0},
            "zoom is 1.0, but it must be at least 0 and below 1: images are scaled by 1 - zoom to 1 +",
        ),
        ({"erase_area": (0.1, 1.2)}, "erase_area is (0.1, 1.2), but it must be (low, high), two shares above 0 and"),
        ({"erase_area": (0.3, 0.1)}, "erase_area is (0.3, 0.1), but"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma is (0.0, 1.0), but it must be (low, high), both positive."),
        ({"hue": 0.6}, "hue is 0.6, but it must be a share of the colour circle between 0 and 0.5."),
        ({"magnitude": 31}, "magnitude is 31, but it must be a whole number from 0 to 30."),
        ({"num_ops": 0}, "num_ops is 0, but it must be 1 or more."),
        ({"fill_color": (1.0, 2.0)}, "fill_color is (1.0, 2.0), but it must be () or three numbers between 0 and 1."),
        ({"fill": "mirror"}, "fill is 'mirror', but it must be one of: 'constant', 'reflect', 'nearest', 'wrap'."),
        ({"policy": "randaug"}, "'randaugment', 'trivialaugment', 'autoaugment'; did you mean 'randaugment'?"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError) as error:
        Augmentation(**options)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_values_out_of_range_are_named_at_once():
    with pytest.raises(UserError) as error:
        Augmentation(flip=-1.0, noise=-0.1, crop="centre", erase=7.0)
    assert [line.split(" ")[0] for line in str(error.value).splitlines()] == ["flip", "erase", "noise", "crop"]
