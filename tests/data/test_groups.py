import numpy as np
import pytest

from jaxtl.data.cuts import TEST, TRAIN, VAL, cut
from jaxtl.data.dataset import Dataset
from jaxtl.data.groups import class_counts, refuse_divided, sides
from jaxtl.data.splits import positions
from jaxtl.errors import UserError


def dataset(labels, groups=None):
    labels = np.asarray(labels, np.int32 if np.ndim(labels) == 1 else np.uint8)
    classes = tuple("abc"[: 1 + labels.max()] if labels.ndim == 1 else "abc"[: labels.shape[1]])
    return Dataset(classes, labels, tuple(map(str, range(len(labels)))), lambda i: b"", groups=groups)


def test_groups_that_are_single_images_are_cut_as_images_of_those_names():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    names = tuple(f"scan{i}" for i in range(200))
    found = sides(dataset(labels, names), val_from=0.8, test_from=0.9)
    assert found.tolist() == cut(labels, positions(names), val_from=0.8, test_from=0.9).tolist()


def test_a_class_that_would_miss_a_side_takes_its_group_along():
    # Each class is of three patients; wherever their hashes lie, one trains, one validates, one tests.
    for start in range(20):
        groups = [f"patient{start + i // 2}" for i in range(12)]
        labels = [0] * 6 + [1] * 6
        found = sides(dataset(labels, groups), val_from=0.8, test_from=0.9)
        assert sorted(found[:6:2]) == sorted(found[6::2]) == [TRAIN, VAL, TEST]
        assert found[::2].tolist() == found[1::2].tolist()


def test_classes_of_groups_are_counted():
    owner = np.array([0, 0, 1])
    assert class_counts(dataset([1, 1, 0]), owner, 2).tolist() == [[0, 2], [1, 0]]
    assert class_counts(dataset([[1, 1], [0, 1], [0, 0]]), owner, 2).tolist() == [[1, 2], [0, 0]]


def test_divided_groups_are_named_for_each_pair_of_splits():
    first, second = dataset([0, 1, 0], ("x", "y", "z")), dataset([0, 1], ("z", "x"))
    refuse_divided({"train": first, "val": None, "test": dataset([0, 1], ("u", "v"))})
    refuse_divided({"train": dataset([0, 1]), "test": dataset([0, 1])})
    with pytest.raises(
        UserError, match="2 groups of images are on both sides of a split: train and test share x, z"
    ) as e:
        refuse_divided({"train": first, "test": second})
    assert e.value.arguments == ("train", "val", "test")
