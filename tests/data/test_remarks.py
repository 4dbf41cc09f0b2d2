from pathlib import Path

import numpy as np
import pytest

from jaxtl.data.dataset import Dataset
from jaxtl.data.remarks import absent_classes, count_classes, few, quantities, shared_images

FLOWERS = ("daisy", "rose", "tulip", "tulpi")


def dataset(labels, prefix="", classes=FLOWERS, files=()):
    names = tuple(f"{prefix}{i}" for i in range(len(labels)))
    return Dataset(classes, np.array(labels, np.int32), names, lambda i: files[i])


def test_counts_of_few_and_of_many_classes():
    assert count_classes(dataset([0, 0, 2, 3])) == "2 daisy, 0 rose, 1 tulip, 1 tulpi"
    many = tuple(map(str, range(6)))
    assert count_classes(dataset([0, 1, 2, 3, 4, 5], classes=many)) == "1 of each of 6 classes"
    assert count_classes(dataset([0, 0, 3], classes=many)) == "0 to 2 of each class"


def test_a_class_that_only_train_lacks_is_a_warning_with_the_name_that_was_meant():
    splits = {"train": dataset([0, 1, 2]), "val": None, "test": dataset([0, 1, 3, 3])}
    assert absent_classes(splits) == [
        "warning: class 'tulpi' is in test (2 images) and not in train, so it is never predicted: is it 'tulip', of "
        "which test has none? Then give both one name",
        "test has no image of 1 of 4 classes: tulip",
    ]


def test_a_class_that_is_missing_everywhere_or_means_nothing_else():
    splits = {"train": dataset([0, 1]), "val": dataset([0, 1]), "test": dataset([0, 1, 2, 3])}
    classes = [line for line in absent_classes(splits) if line.startswith("warning")]
    assert len(classes) == 2
    assert all(line.endswith("add some to train, or take it away") for line in classes)
    assert absent_classes({"train": dataset([0, 1, 2]), "val": dataset([0, 1, 2])}) == [
        "train has no image of 1 of 4 classes: tulpi",
        "val has no image of 1 of 4 classes: tulpi",
    ]


def test_many_classes_that_train_lacks_are_counted():
    many = tuple(f"{i:03}" for i in range(30))
    splits = {"train": dataset([0], classes=many), "test": dataset(list(range(30)), classes=many)}
    lines = absent_classes(splits)
    assert len(lines) == 6
    assert lines[5] == ("warning: 24 more classes of test are not in train: 006, 007, 008, 009, 010 and 19 more")


def test_images_that_train_holds_too_are_named():
    train = dataset([0, 1, 1], "train/", files=[b"aa", b"bb", b"c"])
    test = dataset([0, 0, 1], "test/", files=[b"aa", b"bb", b"dd"])
    assert shared_images({"train": train, "val": None, "test": test}) == [
        "warning: 2 of 3 images of test are in train too, byte for byte, 1 of them with another label: test/0 is "
        "train/0; test/1 is train/1. What was seen in training is no measure: take them out of one of the two"
    ]
    assert shared_images({"train": train, "val": dataset([0], files=[b"cc"])}) == []


def test_arrays_of_another_shape_are_other_images():
    train = dataset([0], files=[np.zeros((2, 4, 3), np.uint8)])
    same, other = np.zeros((2, 4, 3), np.uint8), np.zeros((4, 2, 3), np.uint8)
    assert len(shared_images({"train": train, "test": dataset([0], files=[same])})) == 1
    assert shared_images({"train": train, "test": dataset([0], files=[other])}) == []


def test_of_files_only_those_of_equal_size_are_read(tmp_path):
    for name, content in {"a": b"12", "b": b"123", "c": b"12", "d": b"1"}.items():
        (tmp_path / name).write_bytes(content)
    read: list[str] = []

    def files(*names: str) -> Dataset:
        def content(i: int) -> bytes:
            read.append(names[i])
            return Path(tmp_path / names[i]).read_bytes()

        return Dataset(FLOWERS, np.zeros(len(names), np.int32), names, content, tmp_path)

    (line,) = shared_images({"train": files("a", "b"), "test": files("c", "d", "gone")})
    assert "c is a" in line
    assert sorted(read) == ["a", "c"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["0.53", "1.27", "3.1"], "with 3 values for 3 images"),
        (["-3", "5.5", "12", "12", "7", "8.25"], "with 5 values for 6 images"),
        ([str(17 * i) for i in range(20)], "with 20 values for 20 images"),
        (["1.5", "2.0"] * 50, ""),  # Marks, of which there are few.
        (["17", "3", "985"], ""),  # Three images of a thousand classes.
        (["7", "7", "9"] * 20, ""),
        (["cat", "dog"], ""),
        (["nan", "1.5"], ""),
        ([], ""),
    ],
)
def test_numbers_that_differ_for_nearly_each_image_are_quantities(labels, said):
    found = quantities(labels)
    assert said in found
    assert bool(found) == bool(said)


def test_few():
    assert few(["a", "b"]) == "a, b"
    assert few(["a", "b", "c"], 2, separator="; ") == "a; b and 1 more"
