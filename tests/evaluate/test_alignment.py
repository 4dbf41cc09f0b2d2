import time

import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.evaluate.alignment import NamedPredictions, align
from jaxtl.evaluate.bootstrap import Judged


def predictions(classes, rows):
    """Returns predictions from rows (name, true class, predicted class)."""
    names, actual, predicted = zip(*rows, strict=True)
    labels, found = (np.array([classes.index(name) for name in each]) for each in (actual, predicted))
    numbers = np.arange(len(rows), dtype=float)
    return NamedPredictions(classes, names, Judged(labels, found, numbers, numbers / 10, len(classes)))


ROWS = [("a.png", "cat", "dog"), ("b.png", "dog", "dog"), ("c.png", "emu", "cat")]
FIRST = predictions(["cat", "dog", "emu"], ROWS)


def test_images_and_classes_are_found_by_name():
    second = predictions(["emu", "cat", "dog"], [ROWS[2], ROWS[0], ("b.png", "dog", "emu")])
    found = align({"A": FIRST, "B": second})
    assert (list(found.classes), found.names) == (["cat", "dog", "emu"], ["a.png", "b.png", "c.png"])
    assert found.left_out == {"A": 0, "B": 0}
    for name, predicted, losses in (("A", [1, 1, 0], [0, 1, 2]), ("B", [1, 2, 0], [1, 2, 0])):
        assert found.judged[name].labels.tolist() == [0, 1, 2]
        assert found.judged[name].predicted.tolist() == predicted
        assert found.judged[name].log_losses.tolist() == losses


def test_another_set_of_classes_is_an_error_that_names_them():
    other = predictions(["cat", "dog", "fox", "gnu"], ROWS[:2])
    with pytest.raises(UserError, match=r"only A has 'emu'; only B has 'fox', 'gnu'"):
        align({"A": FIRST, "B": other})
    twins = NamedPredictions(["dog", "dog", "cat"], FIRST.names, FIRST.judged)
    with pytest.raises(UserError, match="several of one name"):
        align({"A": NamedPredictions(["cat", "dog", "dog"], FIRST.names, FIRST.judged), "B": twins})


def test_other_images_are_an_error_or_only_the_shared_ones_are_kept():
    other = predictions(["cat", "dog", "emu"], [*ROWS[1:], ("d.png", "cat", "cat"), ("e.png", "cat", "cat")])
    expected = r"A 3, B 4, of which 2 are shared \(a.png in A is not in all; d.png in B is not in all\); with shared"
    with pytest.raises(UserError, match=expected):
        align({"A": FIRST, "B": other})
    found = align({"A": FIRST, "B": other}, shared=True)
    assert (found.names, found.left_out) == (["b.png", "c.png"], {"A": 1, "B": 2})


def test_no_shared_image_is_an_error_in_any_case():
    other = predictions(["cat", "dog", "emu"], [("x.png", "cat", "cat")])
    with pytest.raises(UserError, match=r"0 are shared .*; compare runs on the same images"):
        align({"A": FIRST, "B": other}, shared=True)


def test_another_label_for_an_image_is_an_error():
    other = predictions(["emu", "cat", "dog"], [*ROWS[:2], ("c.png", "dog", "cat")])
    with pytest.raises(UserError, match=r"1 of 3 images: c.png is 'emu' in A and 'dog' in B"):
        align({"A": FIRST, "B": other})


def test_images_of_one_name_stand_in_their_order():
    rows = [("a.png", "cat", "cat"), ("b.png", "dog", "dog"), ("a.png", "dog", "cat")]
    found = align(
        {"A": predictions(["cat", "dog"], rows), "B": predictions(["cat", "dog"], [rows[0], rows[2], rows[1]])}
    )
    assert found.names == ["a.png", "a.png", "b.png"]
    assert found.judged["A"].labels.tolist() == found.judged["B"].labels.tolist() == [0, 1, 1]


def test_many_classes_in_another_order_take_no_time():
    classes = [f"class {i}" for i in range(20_000)]
    labels = np.arange(20_000)
    judged = Judged(labels, labels, labels / 1.0, labels / 2e4, len(classes))
    turned = NamedPredictions(classes[::-1], [f"{i:05}" for i in reversed(range(20_000))], judged)
    began = time.perf_counter()
    found = align({"A": NamedPredictions(classes, [f"{i:05}" for i in range(20_000)], judged), "B": turned})
    assert time.perf_counter() - began < 5  # By a search for each it takes half a minute.
    assert found.judged["B"].predicted.tolist() == labels.tolist()
