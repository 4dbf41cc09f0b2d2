import numpy as np
import pytest

from jaxtl.data import Dataset, Source
from jaxtl.errors import UserError
from jaxtl.experiment.evaluation import align_classes, choose_split


def source(classes=("a", "b"), uri="folder:photos", **splits):
    each = {
        name: Dataset(
            tuple(classes), np.arange(count, dtype=np.int32) % len(classes), tuple(map(str, range(count))), id
        )
        for name, count in splits.items()
    }
    return Source(uri, tuple(classes), each)


@pytest.mark.parametrize(
    ("asked", "splits", "chosen"),
    [
        ("", {"train": 4, "val": 3, "test": 2}, "test"),
        ("", {"train": 4, "valid": 3}, "valid"),
        ("", {"all": 5}, "all"),
        ("train", {"train": 4, "test": 2}, "train"),
    ],
)
def test_what_is_measured(asked, splits, chosen):
    name, dataset = choose_split(asked, source(**splits))
    assert (name, len(dataset)) == (chosen, splits[chosen])


def test_a_source_that_leaves_it_open_is_an_error():
    with pytest.raises(UserError, match=r"has the splits one, two: say which with --config.eval.split"):
        choose_split("", source(one=2, two=2))


def align(width, known, data, **options):
    return align_classes(width, known, data, next(iter(data.splits.values())), **options)


def test_labels_follow_the_order_of_the_head():
    classes, dataset = align(3, ("c", "b", "a"), source(test=4))
    assert (classes, dataset.labels.tolist()) == (("c", "b", "a"), [2, 1, 2, 1])


def test_one_class_of_the_weights_is_enough():
    classes, dataset = align(3, ("c", "b", "a"), source(("b",), test=4), exact=True)
    assert (classes, dataset.labels.tolist()) == (("c", "b", "a"), [1, 1, 1, 1])


def test_numbers_are_outputs():
    classes, dataset = align(3, ("x", "y", "z"), source(("0", "1"), test=2))
    assert (classes, dataset.labels.tolist()) == (("x", "y", "z"), [0, 1])
    assert align(3, None, source(("0", "1"), test=2))[0] == ("0", "1", "2")
    assert align(3, None, source(("p", "q"), uri="npz:x.npz", test=2))[0] == ("p", "q", "class 2")


def test_other_classes_are_an_error():
    with pytest.raises(
        UserError, match=r"has 2 classes, of which the weights do not know 'b'; the weights have a head for 3 \(a, y, "
    ):
        align(3, ("a", "y", "z"), source(test=2))
    with pytest.raises(UserError, match=r"do not know 'b'; the weights have a head for 2 \(x, a\)"):
        align(2, ("x", "a"), source(test=2))
    with pytest.raises(UserError, match="these weights have no head"):
        align(0, None, source(test=2))


def test_one_class_of_a_run_may_not_be_another_one_in_its_place():
    data = source(("ash", "oak", "yew"), test=3)
    assert align(3, ("ash", "oak, Quercus", "yew"), data)[0] == ("ash", "oak", "yew")
    with pytest.raises(UserError, match=r"has 3 classes, of which the weights do not know 'yew'; .* 3 \(ash, oak, elm"):
        align(3, ("ash", "oak", "elm"), data, exact=True)
