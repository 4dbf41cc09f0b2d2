from dataclasses import fields

import pytest

from jaxtl.data.augment import PRESETS, Augmentation, presets
from jaxtl.data.augment.presets import DEFAULTS, except_for, in_words, preset_problems, with_preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_allowed_and_changes_what_it_names(name):
    values = with_preset(name, DEFAULTS)
    assert {key for key, value in values.items() if value != DEFAULTS[key]} == PRESETS[name].keys() - (
        {"scale"} if name in ("light", "medium") else set()  # As in the defaults.
    )
    assert Augmentation(**values).is_plain == (name == "none")


def test_without_a_preset_all_is_as_written():
    assert with_preset("", {**DEFAULTS, "rotate": 3.0}) == {**DEFAULTS, "rotate": 3.0}
    assert list(DEFAULTS) == [field.name for field in fields(Augmentation)]


def test_what_is_written_stays():
    values = with_preset("strong", {**DEFAULTS, "erase": 0.1, "scale": [0.25, 1.0]})
    assert (values["erase"], values["scale"], values["policy"]) == (0.1, (0.2, 1.0), "trivialaugment")


def test_what_is_left_out_stays_at_its_default():
    values = with_preset("medium except rotate,erase", DEFAULTS)
    assert (values["rotate"], values["erase"], values["color_jitter"]) == (0.0, 0.0, 0.2)
    assert except_for("medium", ["rotate", "zoom"]) == "medium except rotate"
    assert except_for("medium except rotate", ["erase"]) == "medium except rotate,erase"
    assert except_for("medium except rotate", ["rotate"]) == "medium except rotate"
    assert except_for("", ["rotate"]) == ""


def in_words_now(preset, values):
    return in_words(preset, values, with_preset(preset, values))


def test_in_words():
    assert in_words_now("medium", DEFAULTS) == "medium sets scale 0.25 to 1, rotate 10, color_jitter 0.2, erase 0.1"
    assert in_words_now("strong except policy", {**DEFAULTS, "erase": 0.5}) == (
        "strong sets scale 0.2 to 1; as written stay policy '', erase 0.5"
    )
    assert in_words_now("none", {**DEFAULTS, "crop": "pad_crop", "flip": 0.1}) == (
        "none sets nothing; as written stay crop pad_crop, flip 0.1"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "meduim",
            "preset is 'meduim', but it must be one of: '', 'auto', 'none', 'small_images', 'light', 'medium', ",
        ),
        (
            "medium except zoom",
            "preset is 'medium except zoom', but 'medium' does not set 'zoom'; it sets: scale, rotate, ",
        ),
        ("maximal", "'strong'."),
    ],
)
def test_bad_presets(text, problem):
    (line,) = preset_problems(text)
    assert problem in line


def test_good_presets():
    assert not any(preset_problems(text) for text in ("", *presets.PRESETS, "strong except erase,policy"))
