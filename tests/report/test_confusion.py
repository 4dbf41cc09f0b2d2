import numpy as np
import pytest

from jaxtl.report.confusion import Pair, confused_pairs, confusion_chart, similarity_order

CONFUSION = np.array([[8, 2, 0], [1, 9, 0], [2, 0, 2]])


def test_the_pairs_with_most_images_come_first():
    assert confused_pairs(CONFUSION) == [Pair(2, 0, 2, 0.5), Pair(0, 1, 2, 0.2), Pair(1, 0, 1, 0.1)]
    assert confused_pairs(CONFUSION, limit=1) == [Pair(2, 0, 2, 0.5)]
    assert confused_pairs(np.diag([3, 4])) == []


def test_classes_that_are_taken_for_each_other_stand_side_by_side():
    confusion = 10 * np.eye(6, dtype=int)
    for one, other in ((0, 3), (1, 4), (2, 5)):
        confusion[one, other] = confusion[other, one] = 4
    place = np.argsort(similarity_order(confusion))
    assert [abs(place[i] - place[i + 3]) for i in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("confusion", [np.diag([3, 4, 5]), np.zeros((4, 4), int), np.array([[1, 2], [3, 4]])])
def test_where_nothing_is_alike_the_order_stays(confusion):
    assert similarity_order(confusion).tolist() == list(range(len(confusion)))


def test_few_classes_keep_their_order_and_show_their_numbers():
    svg = confusion_chart(np.array([[17, 3], [0, 11]]), ["<cats>", "dogs"])
    assert svg.startswith('<svg role="img" aria-label="Confusion matrix of 2 classes: 28 of 31 images')
    assert [number for number in ("17", "3", "11", "0") if f">{number}</text>" in svg] == ["17", "3", "11"]
    assert "&lt;cats&gt;" in svg
    assert "<cats>" not in svg


def test_of_102_classes_each_has_its_name_and_no_number():
    names = [f"kind {i:03}" for i in range(102)]
    svg = confusion_chart(12345 * np.eye(102, dtype=int), names)
    assert all(svg.count(f">{name}</text>") == 2 for name in names)
    assert ">12345</text>" not in svg
    assert len(svg) < 200_000


def test_a_class_without_images_is_an_empty_row():
    assert "0 of 0 images" in confusion_chart(np.zeros((2, 2), int), ["a", "b"])
