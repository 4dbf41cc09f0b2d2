import dataclasses

import numpy as np
import pytest

from jaxtl.data.dataset import Dataset
from jaxtl.data.folds import Fold, assign_folds, members, parse_fold
from jaxtl.data.splits import positions
from jaxtl.errors import UserError


def dataset(counts, prefix="img", groups=None):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    names = tuple(f"{c}/{prefix}_{i}.jpg" for c, count in enumerate(counts) for i in range(count))
    return Dataset(tuple(f"class{c}" for c in range(len(counts))), labels, names, lambda i: b"", groups=groups)


def test_words():
    assert parse_fold("fold 3/5") == Fold(3, 5)
    assert parse_fold("not fold 3/5 of repeat 2") == Fold(3, 5, 2, rest=True)
    assert parse_fold("train") is None
    for fold in (Fold(1, 2), Fold(3, 5, 2), Fold(10, 10, 1, rest=True)):
        assert parse_fold(str(fold)) == fold
        assert fold.others.others == fold
    for text in ("fold 0/5", "fold 6/5", "fold 1/1", "fold 1/5 of repeat 0"):
        with pytest.raises(UserError, match=f'there is no "{text}"'):
            parse_fold(text)


def test_each_class_is_spread_evenly_and_so_are_the_extra_images():
    rng = np.random.default_rng(0)
    for _ in range(30):
        of = int(rng.integers(2, 8))
        data = dataset(rng.integers(of, 40, int(rng.integers(2, 9))))
        folds = assign_folds(data, of, repeat=int(rng.integers(1, 4)))
        for c in range(len(data.classes)):
            counts = np.bincount(folds[data.labels == c] - 1, minlength=of)
            assert counts.max() - counts.min() <= 1
    # Of a hundred classes with one image too many for five folds, no fold takes most of those.
    sizes = np.bincount(assign_folds(dataset([6] * 100), 5))[1:]
    assert sizes.sum() == 600
    assert sizes.max() < 140


def test_one_more_image_changes_few_and_those_of_its_class_alone():
    moved = []
    for count in range(5, 60):
        before, after = dataset([count, 30]), dataset([count + 1, 30])
        first = dict(zip(before.names, assign_folds(before, 5), strict=True))
        second = dict(zip(after.names, assign_folds(after, 5), strict=True))
        changed = [name for name in before.names if first[name] != second[name]]
        assert all(name.startswith("0/") for name in changed)
        moved.append(len(changed))
    assert max(moved) <= 4
    shuffled = before.take(np.random.default_rng(0).permutation(len(before)))
    assert dict(zip(shuffled.names, assign_folds(shuffled, 5), strict=True)) == first


def test_repeats_are_other_cuts_and_percentages_cut_across_folds():
    data = dataset([200, 200])
    first, second = assign_folds(data, 5), assign_folds(data, 5, repeat=2)
    together = np.mean([(first == first[i])[second == second[i]].mean() for i in range(400)])
    assert 0.15 < together < 0.3  # As if drawn: 0.2.
    tenth = positions(data.names) >= 0.9
    shares = [tenth[first == number].mean() for number in range(1, 6)]
    assert 0.02 < min(shares) < max(shares) < 0.25


def test_members_of_a_fold_and_of_the_others():
    data = dataset([10, 10])
    inside, outside = members(data, Fold(2, 5)), members(data, Fold(2, 5, rest=True))
    assert sorted([*inside, *outside]) == list(range(20))
    assert len(inside) == 4


def test_groups_are_kept_whole_and_classes_balanced():
    rng = np.random.default_rng(0)
    groups = tuple(f"patient{i}" for i in rng.integers(0, 60, 400))
    data = dataset([200, 120, 80], groups=groups)
    folds = assign_folds(data, 5)
    assert {len({f for f, g in zip(folds, groups, strict=True) if g == name}) for name in set(groups)} == {1}
    counts = np.stack([np.bincount(data.labels[folds == number], minlength=3) for number in range(1, 6)])
    assert (abs(counts - [40, 24, 16]) <= [12, 8, 6]).all()
    # Neither the order of the images nor the spelling of the classes decides.
    order = rng.permutation(400)
    assert assign_folds(data.take(order), 5).tolist() == folds[order].tolist()
    assert (assign_folds(data, 5, repeat=2) != folds).any()


def test_several_labels_are_cut_into_equal_parts():
    labels = np.uint8(np.random.default_rng(0).random((23, 3)) < 0.3)
    data = Dataset(("a", "b", "c"), labels, tuple(map(str, range(23))), lambda i: b"")
    assert sorted(np.bincount(assign_folds(data, 5))[1:]) == [4, 4, 5, 5, 5]
    grouped = dataclasses.replace(data, groups=tuple(f"g{i // 2}" for i in range(23)))
    assert np.bincount(assign_folds(grouped, 3))[1:].min() >= 6
    with pytest.raises(UserError, match="24 folds are more than the 23 images there are"):
        assign_folds(data, 24)


def test_more_folds_than_images_or_groups_of_a_class():
    with pytest.raises(UserError) as error:
        assign_folds(dataset([9, 4, 3, 20]), 5)
    assert str(error.value) == (
        "5 folds are more than the images of a class: 3 of class2, 4 of class1; give at most 3, or more images of it"
    )
    groups = tuple(f"g{i}" for i in [0, 0, 0, 1, 1, 1, 2, 3, 4])
    with pytest.raises(UserError, match="3 folds are more than the groups of a class: 2 of class0"):
        assign_folds(dataset([6, 3], groups=groups), 3)
    with pytest.raises(UserError, match="1 of class0; give more images of it"):
        assign_folds(dataset([1, 3]), 2)
