import numpy as np
import pytest

from jaxtl.data import Dataset, Splits
from jaxtl.errors import UserError
from jaxtl.experiment import shared_splits
from jaxtl.experiment.members import Member

CLASSES = ("cat", "dog")


def dataset(names, classes=CLASSES, flip=False):
    labels = np.array([(ord(name[0]) + flip) % 2 for name in names], np.int32)
    place = [classes.index(CLASSES[label]) for label in labels]
    return Dataset(tuple(classes), np.array(place, np.int32), tuple(names), lambda i: np.zeros((2, 2, 3), np.uint8))


def member(name, tmp_path, classes=CLASSES):
    return Member(name, tmp_path / name, {"classes": list(classes)}, {})


@pytest.fixture
def share(monkeypatch, tmp_path):
    def of(*splits, classes=CLASSES):
        members = [member(name, tmp_path, classes) for name in "abc"[: len(splits)]]
        by_name = dict(zip("abc", splits, strict=False))
        monkeypatch.setattr(shared_splits, "_open", lambda each: by_name[each.name])
        return shared_splits.open_shared(members)

    return of


def splits(val, test, **given):
    return Splits(dataset("t"), dataset(val, **given), dataset(test, **given) if test else None, ())


def test_images_are_those_that_all_have_held_out_and_labels_go_by_name(share):
    found = share(splits("pqrs", "vw"), splits("srqx", "wv", classes=("dog", "cat")), classes=("dog", "cat"))
    assert (found.val.names, found.test.names) == (("q", "r", "s"), ("v", "w"))
    assert [found.val.classes[label] for label in found.val.labels] == ["dog", "cat", "dog"]
    assert found.val.classes == ("dog", "cat")
    assert found.notes == ["val: the 3 images alone that all runs have (a 4, b 4)"]


def test_without_a_test_split_in_some_there_are_no_metrics_on_test(share):
    found = share(splits("pq", "v"), splits("pq", ""))
    assert found.test is None
    assert found.notes == ["there are no metrics on test, since there is no test split in b"]


def test_none_in_common_and_other_labels_are_told_in_a_line(share):
    with pytest.raises(UserError, match=r"^the runs have no image of val in common \(a 2, b 1\)[^\n]*$"):
        share(splits("pq", "v"), splits("r", "v"))
    with pytest.raises(UserError, match="no image of test in common"):
        share(splits("pq", "v"), splits("pq", "w"))
    with pytest.raises(UserError, match="a and b have other labels for 2 images of val, such as p: 'cat' and 'dog'"):
        share(splits("pq", "v"), splits("pq", "v", flip=True))
