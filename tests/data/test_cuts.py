import numpy as np
import pytest

from jaxtl.data.cuts import TEST, TRAIN, VAL, cut, cut_several


def sides(places, three=True, labels=None):
    places = np.array(places)
    labels = np.zeros(len(places), np.int32) if labels is None else np.array(labels)
    return cut(labels, places, val_from=0.8 if three else 0.9, test_from=0.9 if three else None).tolist()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.1, 0.5, 0.85, 0.95], [TRAIN, TRAIN, VAL, TEST]),  # As the percentages say.
        ([0.3], [TRAIN]),
        ([0.95], [TRAIN]),
        ([0.7, 0.2], [VAL, TRAIN]),
        ([0.95, 0.97], [TRAIN, VAL]),
        ([0.1, 0.5, 0.7], [TRAIN, VAL, TEST]),
        ([0.1, 0.85, 0.87], [TRAIN, VAL, TEST]),
        ([0.1, 0.95, 0.97, 0.99], [TRAIN, VAL, TEST, TEST]),
        ([0.1, 0.2, 0.95], [TRAIN, VAL, TEST]),
        ([0.82, 0.95, 0.97], [TRAIN, VAL, TEST]),
    ],
)
def test_what_is_missing_comes_from_beside_the_cut(places, expected):
    assert sides(places) == expected


@pytest.mark.parametrize(
    ("places", "expected"),
    [([0.1, 0.95], [TRAIN, VAL]), ([0.1, 0.7], [TRAIN, VAL]), ([0.95, 0.97], [TRAIN, VAL]), ([0.95], [TRAIN])],
)
def test_without_test(places, expected):
    assert sides(places, three=False) == expected


def test_each_class_by_itself():
    assert sides([0.1, 0.95, 0.2, 0.3, 0.99], labels=[2, 0, 2, 2, 0]) == [TRAIN, TRAIN, VAL, TEST, VAL]


def random_classes(count, rng):
    """Places of classes of all sizes, many of them small, and some with all images beyond the cut."""
    for _ in range(count):
        places = rng.random(int(rng.integers(1, 30)) if rng.random() < 0.5 else int(rng.integers(1, 6)))
        yield 0.8 + 0.2 * places if rng.random() < 0.1 else places


@pytest.mark.parametrize("three", [True, False])
def test_every_class_is_on_every_side_that_it_has_images_for_and_two_move_at_most(three):
    for places in random_classes(300, np.random.default_rng(0)):
        found = sides(places, three)
        counts = np.bincount(found, minlength=3)
        enough = [1, 2, 3] if three else [1, 2, np.inf]
        assert [count > 0 for count in counts] == [len(places) >= needed for needed in enough]
        plain = (places >= (0.8 if three else 0.9)).astype(int) + (places >= 0.9 if three else 0)
        missing = (np.bincount(plain, minlength=3) == 0)[: 3 if three else 2]
        assert (plain != found).sum() <= 2
        if not missing.any():
            assert found == plain.tolist()


@pytest.mark.parametrize(("three", "least"), [(True, 3), (False, 2)])
def test_an_image_that_trains_goes_on_training_when_others_come(three, least):
    lent = 0
    for places in random_classes(150, np.random.default_rng(1)):
        first = 0.8 if three else 0.9
        for count in range(least, len(places)):
            before, after = (np.array(sides(places[:n], three)) for n in (count, count + 1))
            left = np.flatnonzero((before == TRAIN) & (after[:count] != TRAIN))
            # What is lent of a class without an image below the cut goes back when a lower one comes, and nothing else.
            if len(left):
                assert left.tolist() == [int(places[:count].argmin())]
                assert places[:count].min() >= first
                assert places[count] < places[:count].min()
                lent += 1
    assert 0 < lent < 30


def test_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(2)
    labels, places = rng.integers(0, 9, 60), rng.random(60)
    order = rng.permutation(60)
    shuffled = cut(labels[order], places[order], val_from=0.8, test_from=0.9)
    assert shuffled.tolist() == cut(labels, places, val_from=0.8, test_from=0.9)[order].tolist()


def test_of_several_labels_each_class_has_an_image_in_train():
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = (rng.random((rng.integers(4, 30), 6)) < 0.2).astype(np.uint8)
        places = rng.random(len(labels))
        sides = cut_several(labels, places, val_from=0.8, test_from=0.9)
        there = labels.any(0)
        assert labels[sides == TRAIN].any(0)[there].all()
        # What moved was needed: enough of any class is on every side.
        plenty = labels[sides == TRAIN].sum(0) > 1
        alone = labels.sum(1) == 1
        for c in np.flatnonzero(plenty):
            if (labels[alone & (sides == TRAIN), c]).sum() > 1:
                assert labels[sides == VAL, c].any()
                assert labels[sides == TEST, c].any()


def test_of_several_labels_places_decide_where_nothing_is_missing():
    labels = np.uint8([[1, 0], [0, 1], [1, 1], [1, 1], [0, 0]])
    places = np.array([0.1, 0.2, 0.85, 0.95, 0.99])
    assert cut_several(labels, places, val_from=0.8, test_from=0.9).tolist() == [0, 0, 1, 2, 2]
    # The second class has all its images beyond the cut: the lowest comes to train, and the first gives one to val.
    labels = np.uint8([[1, 0], [1, 0], [0, 1], [0, 1]])
    places = np.array([0.1, 0.2, 0.85, 0.95])
    assert cut_several(labels, places, val_from=0.8).tolist() == [0, 1, 0, 1]
