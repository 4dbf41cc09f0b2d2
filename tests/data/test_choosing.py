import dataclasses

import numpy as np
import pytest

from jaxtl.data.choosing import choose_splits
from jaxtl.data.dataset import Dataset
from jaxtl.data.source import Source, open_source
from jaxtl.errors import UserError


def pool(name: str, count: int, classes: int = 2) -> Dataset:
    names = tuple(f"{name}/{i % classes}/{i // classes}.jpg" for i in range(count))
    labels = np.arange(count, dtype=np.int32) % classes
    return Dataset(tuple(map(str, range(classes))), labels, names, lambda i: names[i].encode())


def source(**counts: int) -> Source:
    return Source("folder:x", ("0", "1"), {name: pool(name, count) for name, count in counts.items()})


def test_all_three_splits_are_taken_as_they_are():
    splits = choose_splits(source(train=100, validation=20, test=30))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [100, 20, 30]
    assert splits.notes == ()


def test_a_tenth_of_train_validates_where_no_split_does():
    data = source(train=400, test=30)
    splits = choose_splits(data)
    assert sorted(splits.train.names) == sorted(data.split("train[:90%]").names)
    assert splits.val.names == data.split("train[90%:]").names
    assert len(splits.train) + len(splits.val) == 400
    assert f"{len(splits.val)} examples of train (train[90%:]) serve as one" in splits.notes[0]


def test_the_held_out_tenth_is_the_same_for_every_share_of_train():
    data = source(train=400, test=30)
    held_out = set(data.split("train[90%:]").names)
    for train in ("train[:50%]", "train[:100]", "train[40%:]"):
        splits = choose_splits(data, train=train)
        assert set(splits.val.names) == held_out
        assert set(splits.train.names) == set(data.split(train).names) - held_out
    with pytest.raises(UserError, match=r"train\[95%:\] without train\[90%:\] leaves nothing"):
        choose_splits(data, train="train[95%:]")


def test_a_source_without_splits_is_cut_in_three():
    splits = choose_splits(source(all=600))
    assert len(splits.train) + len(splits.val) + len(splits.test) == 600
    assert abs(len(splits.train) - 480) < 15
    assert abs(len(splits.val) - 60) < 15
    (note,) = splits.notes
    assert note == "folder:x has no splits, so the names of its images decide which side each is on"
    assert not set(splits.train.names) & set(splits.test.names)


def test_where_no_class_is_missing_a_source_is_cut_as_its_percentages_say():
    data = source(all=600)
    splits = choose_splits(data)
    for dataset, spec in ((splits.train, "all[:80%]"), (splits.val, "all[80%:90%]"), (splits.test, "all[90%:]")):
        assert dataset.names == data.split(spec).names
    assert choose_splits(data, by_class=False).notes[0] == (
        "folder:x has no splits: train is all[:80%], val is all[80%:90%], test is all[90%:]"
    )


@pytest.mark.parametrize(("images", "sizes"), [(2, (2, 2, None)), (3, (2, 2, 2)), (4, (4, 2, 2)), (5, (6, 2, 2))])
def test_small_sets_have_each_class_on_each_side(images, sizes):
    splits = choose_splits(source(all=2 * images))
    assert tuple(dataset and len(dataset) for dataset in (splits.train, splits.val, splits.test)) == sizes
    for dataset in (splits.train, splits.val, splits.test or splits.val):
        assert np.bincount(dataset.labels).min() >= 1
    said = "\n".join(splits.notes)
    assert "of them moved so that no class is missing" in said
    assert ("no test split: too few images (2 0, 2 1)" in said) == (images == 2)


def test_of_a_lopsided_set_the_small_class_is_on_each_side_too():
    few, many = pool("few", 3, classes=1), pool("many", 300, classes=1)
    labels = np.concatenate([few.labels, many.labels + 1])
    both = Dataset(("0", "1"), labels, few.names + many.names, lambda i: b"")
    splits = choose_splits(Source("folder:x", ("0", "1"), {"all": both}))
    assert [np.bincount(dataset.labels)[0] for dataset in (splits.train, splits.val, splits.test)] == [1, 1, 1]
    held_out = choose_splits(Source("folder:x", ("0", "1"), {"train": both}))
    assert [np.bincount(dataset.labels)[0] for dataset in (held_out.train, held_out.val)] == [2, 1]


def test_where_val_is_given_the_rest_of_a_source_without_splits_trains_and_tests():
    splits = choose_splits(source(all=8), val="all[:2]")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [4, 2, 2]
    assert len({*splits.train.names, *splits.val.names, *splits.test.names}) == 8
    large = source(all=600)
    splits = choose_splits(large, val="all[80%:90%]")
    assert splits.train.names == large.split("all[:80%]").names
    assert splits.test.names == large.split("all[90%:]").names


def test_a_set_that_grows_keeps_what_it_trains_on():
    before: set[str] = set()
    for images in range(3, 40):
        splits = choose_splits(source(all=2 * images))
        train = set(splits.train.names)
        assert before <= train
        before = train


def test_one_image_a_class_is_too_few():
    with pytest.raises(UserError, match="one image of each class, too few to validate on: it takes two") as error:
        choose_splits(source(all=2))
    assert error.value.arguments == ("source",)
    with pytest.raises(UserError, match="in 'train' one image of each class, too few to take any away") as error:
        choose_splits(source(train=2))
    assert error.value.arguments == ("val",)


@pytest.mark.parametrize("argument", ["train", "val", "test"])
def test_an_error_about_a_split_names_the_argument_that_gave_it(argument):
    with pytest.raises(UserError, match="has no split 'tran'") as error:
        choose_splits(source(train=100, validation=20, test=10), **{argument: "tran"})
    assert error.value.arguments == (argument,)


def test_all_splits_that_are_wrong_are_told_at_once():
    with pytest.raises(UserError) as error:
        choose_splits(source(train=100, test=10), train="train[:0%]", val="vla", test="tset")
    assert len(str(error.value).splitlines()) == 3
    assert error.value.arguments == ("train", "val", "test")


def test_quantities_are_no_classes():
    values = tuple(str(13 * i) for i in range(20))
    data = Dataset(values, np.arange(20, dtype=np.int32), values, lambda i: b"")
    with pytest.raises(UserError, match=r"csv:x: the labels are numbers, with 20 values for 20 images") as error:
        choose_splits(Source("csv:x", values, {"all": data}))
    assert error.value.arguments == ("source",)


def test_a_source_without_splits_can_be_cut_by_hand():
    splits = choose_splits(source(all=600), train="train[:70%]", val="train[70%:80%]", test="train[80%:]")
    assert len(splits.train) + len(splits.val) + len(splits.test) == 600
    assert splits.notes == ()


def test_without_a_test_split_there_is_a_note():
    splits = choose_splits(source(train=100, validation=20))
    assert splits.test is None
    assert splits.notes == ("folder:x has no test split: there will be no test metrics",)


def test_train_must_be_there():
    with pytest.raises(UserError, match=r"has no split 'train', it has test; set train"):
        choose_splits(source(test=10))
    with pytest.raises(UserError, match="no split 'trian'; it has train, test"):
        choose_splits(source(train=10, test=10), train="trian")


def test_shared_examples_are_refused_all_at_once():
    with pytest.raises(UserError) as error:
        choose_splits(source(train=100), train="train[:90%]", val="train[50%:]", test="train[85%:]")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "train 'train[:90%]' and val 'train[50%:]' share" in lines[0]
    assert "(first: train/" in lines[0]


def test_one_class_in_train_is_refused():
    data = source(train=100, test=10)
    ones = np.flatnonzero(data.splits["train"].labels == 1)
    lopsided = Source("folder:x", ("0", "1"), {**data.splits, "train": data.splits["train"].take(ones)})
    with pytest.raises(UserError, match="split 'train' of folder:x has images of one class only, 1"):
        choose_splits(lopsided)


def test_absent_classes_are_noted():
    data = source(train=100, validation=20, test=10)
    zeros = np.flatnonzero(data.splits["test"].labels == 0)
    splits = choose_splits(Source("folder:x", ("0", "1"), {**data.splits, "test": data.splits["test"].take(zeros)}))
    assert splits.notes == ("test has no image of 1 of 2 classes: 1",)


def test_oxford_flowers12_by_flag(shared):
    splits = choose_splits(open_source(f"folder:{shared}/datasets/oxford_flowers12"))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [647, 73, 240]
    assert np.bincount(splits.val.labels).min() >= 4


def test_several_labels_are_cut_and_counted(tmp_path):
    rows = []
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(b"%d" % i)
        rows.append(f"{i}.png,{'a' if i % 2 else ''};{'b' if i % 3 else ''}")
    (tmp_path / "table.csv").write_text("image,labels\n" + "\n".join(rows))
    source = open_source(f"csv:{tmp_path / 'table.csv'}")
    splits = choose_splits(source)
    assert splits.test is not None
    sides = [splits.train, splits.val, splits.test]
    assert sorted(name for side in sides for name in side.names) == sorted(f"{i}.png" for i in range(20))
    assert sum(side.class_counts() for side in sides).tolist() == [10, 13]
    assert any("an image has up to 2 of 2 labels in train" in note for note in splits.notes)
    assert len(source.split("all[:5]")) == 5


def test_groups_stay_on_one_side_and_each_class_is_on_each():
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(12, 60))
        groups = tuple(f"patient {i}" for i in rng.integers(0, count, 2 * count))
        data = dataclasses.replace(pool("all", 2 * count), groups=groups)
        splits = choose_splits(Source("csv:x", ("0", "1"), {"all": data}))
        held_out = choose_splits(Source("csv:x", ("0", "1"), {"train": data}))
        sides = (splits.train, splits.val, splits.test)
        for parts in (sides, (held_out.train, held_out.val)):
            assert sum(map(len, parts)) == 2 * count
            assert sum(len(set(part.groups)) for part in parts) == len(set(groups))
            assert all(part.class_counts().min() >= 1 for part in parts)
    assert splits.notes[0].startswith("csv:x has no splits, so the names of its groups decide which side each is on")


def test_percentages_keep_groups_whole_and_a_group_on_both_sides_is_an_error():
    data = dataclasses.replace(pool("all", 40), groups=tuple(f"g{i // 4}" for i in range(40)))
    source = Source("csv:x", ("0", "1"), {"all": data})
    splits = choose_splits(source, train="all[:50%]", val="all[50%:80%]", test="all[80%:]")
    assert not set(splits.train.groups) & {*splits.val.groups, *splits.test.groups}
    first, last = data.take(np.arange(10)), data.take(np.arange(10, 40))
    message = r"a group of images is on both sides of a split: train 'train' and test 'test' share g2\. Put each group"
    with pytest.raises(UserError, match=message) as error:
        choose_splits(Source("csv:x", ("0", "1"), {"train": first, "test": last}))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"\d groups of images are on both sides of a split: train"):
        choose_splits(source, train="all[:22]", val="all[22:30]", test="all[30:]")


def test_the_other_folds_train_and_a_tenth_of_them_validates():
    data = source(all=200)
    for number in range(1, 5):
        splits = choose_splits(data, test=f"fold {number}/4")
        named = choose_splits(data, train=f"not fold {number}/4", test=f"all[fold {number}/4]")
        assert named.val.names == splits.val.names
        assert splits.test.class_counts().tolist() == [25, 25]
        assert sorted((*splits.train.names, *splits.val.names, *splits.test.names)) == sorted(data.split("all").names)
        assert 6 <= len(splits.val) <= 24
        assert splits.val.class_counts().min() >= 1
        whole = len(splits.train) + len(splits.val)
        share = f"({100 * len(splits.val) / whole:.0f} %) choose the checkpoint"
        assert f"{len(splits.val)} of {whole} examples of 'train[not fold {number}/4]' {share}" in splits.notes[0]


def test_the_share_that_validates_is_the_true_one_where_groups_stay_together():
    data = pool("all", 96)
    grouped = dataclasses.replace(data, groups=tuple(f"g{i // 16}{i % 2}" for i in range(96)))
    splits = choose_splits(Source("csv:x", ("0", "1"), {"all": grouped}), train="all[not fold 1/2]")
    assert (len(splits.train), len(splits.val)) == (32, 16)
    note = "16 of 48 examples of 'all[not fold 1/2]' (33 %, as whole groups stay together) choose the checkpoint, 32 "
    assert any(note in each for each in splits.notes)


def test_folds_of_a_source_with_splits_leave_its_test_alone_unless_they_are_of_all():
    data = source(train=40, validation=10, test=10)
    splits = choose_splits(data, test="fold 1/5")
    assert splits.val.names == data.split("val").names
    assert {*splits.train.names, *splits.test.names} == set(data.split("train").names)
    splits = choose_splits(data, test="all[fold 1/5]")
    assert len(splits.test) == 12
    assert {*splits.train.names, *splits.val.names, *splits.test.names} == set(data.split("all").names)
    with pytest.raises(UserError, match="11 folds are more than the images of a class: 10 of 0, 10 of 1; give"):
        choose_splits(source(all=20), test="fold 1/11")
