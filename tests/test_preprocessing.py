"""Pixel facts: the user wins field by field, the resize ratio is kept, and nothing is guessed."""

import pytest

from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels, resolve_pixels

KNOWN = Pixels(224, 256, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear")


def test_the_facts_of_the_weights_are_taken():
    assert resolve_pixels(KNOWN, image_size=224) == KNOWN


@pytest.mark.parametrize(("size", "resize"), [(384, 439), (112, 128), (448, 512), (32, 37)])
def test_the_resize_ratio_is_kept_at_another_size(size, resize):
    resolved = resolve_pixels(KNOWN, image_size=size)
    assert (resolved.size, resolved.resize, resolved.mean) == (size, resize, KNOWN.mean)


def test_the_user_wins_field_by_field():
    resolved = resolve_pixels(KNOWN, image_size=384, resize=448, std=[0.1, 0.1, 0.1], interpolation="bicubic")
    assert resolved == Pixels(384, 448, (0.5, 0.4, 0.3), (0.1, 0.1, 0.1), "bicubic")


def test_without_facts_mean_and_std_must_be_given():
    with pytest.raises(UserError, match=r"x\.pth do not say with which mean and std .*give mean and std"):
        resolve_pixels(None, image_size=224, origin="x.pth")
    with pytest.raises(UserError, match="with which std "):
        resolve_pixels(None, image_size=224, mean=[0.5] * 3)
    assert resolve_pixels(None, image_size=96, mean=[0.5], std=[0.5]) == Pixels(96, 96, (0.5,), (0.5,), "bicubic")


def test_they_survive_json():
    assert Pixels.from_json(KNOWN.to_json()) == KNOWN


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "must be positive"),
        ({"resize": 200}, "resize not below size"),
        ({"mean": (0.5,)}, "one number per channel"),
        ({"std": (0.2, 0.0, 0.2)}, "must be positive"),
        ({"interpolation": "cubic"}, "must be one of nearest, lanczos, bilinear, bicubic"),
    ],
)
def test_impossible_facts_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Pixels(**{**KNOWN.__dict__, **fields})
