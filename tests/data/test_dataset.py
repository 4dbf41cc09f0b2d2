import dataclasses

import numpy as np

from jaxtl.data.dataset import Dataset, concatenate


def numbers(*values):
    return Dataset(("a", "b"), np.int32([value % 2 for value in values]), tuple(map(str, values)), lambda i: values[i])


def test_taking_keeps_labels_names_and_pixels_together():
    taken = numbers(4, 7, 6).take(np.array([2, 1, 1]))
    assert (len(taken), taken.names, taken.labels.tolist()) == (3, ("6", "7", "7"), [0, 1, 1])
    assert [taken.read(i) for i in range(3)] == [6, 7, 7]
    again = taken.take(np.array([0]))
    assert (again.names, again.read(0)) == (("6",), 6)


def test_sets_follow_each_other():
    joined = concatenate([numbers(1, 2), numbers(3), numbers(4, 5)])
    assert (joined.names, joined.labels.tolist()) == (("1", "2", "3", "4", "5"), [1, 0, 1, 0, 1])
    assert [joined.read(i) for i in range(5)] == [1, 2, 3, 4, 5]
    alone = numbers(1)
    assert concatenate([alone]) is alone


def test_groups_go_along():
    grouped = [dataclasses.replace(numbers(*values), groups=tuple("xyz"[: len(values)])) for values in ((1, 2), (3,))]
    joined = concatenate(grouped)
    assert joined.groups == ("x", "y", "x")
    assert joined.take(np.array([2, 1])).groups == ("x", "y")
    assert numbers(1, 2).take(np.array([0])).groups is None
