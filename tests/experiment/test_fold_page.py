"""The page of a cross-validation."""

import re

import numpy as np
import pytest

from jaxtl.data import Dataset
from jaxtl.evaluate.cross_validation import TestFold, summarise
from jaxtl.experiment.fold_page import fold_page, wrong_images

CLASSES = ("<ant>", "bee")
NAMES = tuple(f"{i}.png" for i in range(8))
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def fold(number, repeat, rows, margins):
    """A margin above 0 is a right answer."""
    rows, margins = np.array(rows), np.array(margins, np.float32)
    logits = np.zeros((len(rows), 2), np.float32)
    logits[np.arange(len(rows)), LABELS[rows]] = margins
    return TestFold(number, repeat, [NAMES[i] for i in rows], LABELS[rows], logits, 4)


TESTED = [
    fold(1, 1, [0, 1, 4, 5], [1, -2, 1, 1]),
    fold(2, 1, [2, 3, 6, 7], [1, 1, -1, 1]),
    fold(1, 2, [0, 2, 4, 6], [1, 1, 1, -1]),
    fold(2, 2, [1, 3, 5, 7], [1, -3, 1, 1]),
]


def page(tested, repeats):
    images = Dataset(CLASSES, LABELS, NAMES, lambda i: np.full((4, 4, 3), i, np.uint8))
    facts = {"model": "vit", "data": "folder:/home/me/pets", "pool": "train", "folds": 2, "trained": "runs"}
    return fold_page({**facts, "repeats": repeats, **summarise(tested, CLASSES)}, tested, images, sigmoid=False)


def test_images_by_how_often_they_were_wrong():
    wrong = wrong_images(TESTED)
    assert [(each["name"], each["times"], each["label"], each["predicted"]) for each in wrong] == [
        ("6.png", 2, 1, 0),
        ("3.png", 1, 0, 1),
        ("1.png", 1, 0, 1),
    ]
    assert wrong[0]["probability"] == pytest.approx(1 / (1 + np.e))
    assert wrong[1]["probability"] == pytest.approx((1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(3))) / 2, abs=1e-6)


def test_the_page_has_all_sections_and_escapes_names():
    found = page(TESTED, 2)
    assert re.findall(r'<h2 id="(\w+)"', found) == ["metrics", "folds", "classes", "confusion", "images"]
    assert "<ant>" not in found
    assert "/home/me" not in found
    assert "2 folds x 2 repeats of train (8 images), runs, with vit." in found
    assert found.count("<svg") == 2
    assert found.count("data:image/jpeg") == 3
    assert "wrong 2 of 2 times" in found
    assert "The accuracy of each fold: 75.0 to 75.0 %, 75.0 % in the mean." in found


def test_all_right():
    right = [fold(1, 1, [0, 1, 4, 5], [1, 1, 1, 1]), fold(2, 1, [2, 3, 6, 7], [1, 1, 1, 1])]
    found = page(right, 1)
    assert "Images that were wrong: 0</h2>\n<p>None.</p>" in found
    assert "repeat" not in found[found.index("<tbody>") :]
