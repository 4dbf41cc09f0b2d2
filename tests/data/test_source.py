import numpy as np
import pytest

from jaxtl.data.dataset import Dataset
from jaxtl.data.source import Source, choose_splits, open_source
from jaxtl.errors import UserError


def pool(name: str, count: int, classes: int = 2) -> Dataset:
    names = tuple(f"{name}/{i % classes}/{i // classes}.jpg" for i in range(count))
    labels = np.arange(count, dtype=np.int32) % classes
    return Dataset(tuple(map(str, range(classes))), labels, names, lambda i: names[i].encode())


def source(**counts: int) -> Source:
    return Source("folder:x", ("0", "1"), {name: pool(name, count) for name, count in counts.items()})


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "'' is none of tfds:NAME"),
        ("folder:", "'folder:' is none of"),
        ("/data/flowers", "none of tfds:NAME"),
        ("foldr:/data", "did you mean folder:/data"),
        ("CSV:/data/x.csv", "none of"),
    ],
)
def test_uris(uri, message):
    with pytest.raises(UserError, match=message):
        open_source(uri)


def test_one_class_only(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((3, 4, 4, 3), np.uint8), y_train=np.zeros(3, int))
    with pytest.raises(UserError, match="has one class only, 0"):
        open_source(f"npz:{tmp_path}/x.npz")


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
    assert "train is all[:80%], val is all[80%:90%], test is all[90%:]" in splits.notes[0]
    assert not set(splits.train.names) & set(splits.test.names)


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


def test_imagenet_sample_is_one_pool(shared):
    data = open_source(f"csv:{shared}/datasets/imagenet_sample_1000/labels.csv")
    assert data.split_names == ("all",)
    assert len(data.split("all")) == len(data.split("train")) == 1000
