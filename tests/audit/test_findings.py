import csv
import io

import numpy as np

from jaxtl.audit.duplicates import Pair
from jaxtl.audit.findings import Audited, Finding, in_order, of_pairs, to_csv
from jaxtl.data.corrections import COLUMNS
from jaxtl.data.dataset import Dataset


def audited(sides, labels):
    names = tuple(f"{i}.jpg" for i in range(len(sides)))
    return Audited(Dataset(("a", "b"), np.zeros(len(sides), np.int32), names, None), np.array(sides), labels)


def rows(pairs, images):
    return [(f.index, f.problem, f.suggestion, f.other, f.detail) for f in of_pairs(pairs, images)]


def test_of_a_group_across_splits_what_measures_stays():
    images = audited(["train", "test", "train"], "aaa")
    pairs = [Pair(0, 1, "near", "3 of 63 bits differ"), Pair(0, 2, "file", "the same file")]
    assert rows(pairs, images) == [
        (0, "leak", "exclude", 1, "3 of 63 bits differ from 1.jpg (test, a)"),
        (2, "duplicate", "exclude", 0, "the same file as 0.jpg (train, a)"),
    ]


def test_within_a_split_the_first_stays():
    images = audited(["train"] * 3, "aaa")
    pairs = [Pair(0, 1, "near", "x"), Pair(0, 2, "pixels", "y"), Pair(1, 2, "near", "z")]
    assert [row[:4] for row in rows(pairs, images)] == [
        (1, "near duplicate", "exclude", 0),
        (2, "duplicate", "exclude", 0),
    ]


def test_conflicting_labels_have_both_images_and_no_suggestion():
    images = audited(["train", "test"], "ab")
    assert rows([Pair(0, 1, "file", "the same file")], images) == [
        (0, "conflicting labels", "", 1, "the same file as 1.jpg (test, b)"),
        (1, "conflicting labels", "", 0, "the same file as 0.jpg (train, a)"),
    ]


def test_an_image_that_no_run_uses_is_no_leak():
    images = audited(["train", "unused"], "aa")
    assert rows([Pair(0, 1, "file", "f")], images) == [(1, "duplicate", "exclude", 0, "f as 0.jpg (train, a)")]


def test_features_alone_suggest_nothing_and_join_no_group():
    images = audited(["test", "train", "train"], "aab")
    pairs = [Pair(0, 1, "features", "cosine 0.96 of features"), Pair(1, 2, "file", "f")]
    found = rows(pairs, images)
    assert found[-1] == (1, "similar", "", 0, "cosine 0.96 of features to 0.jpg (test, a)")
    assert [row[1] for row in found[:-1]] == ["conflicting labels"] * 2
    assert (
        rows([Pair(1, 2, "file", "f"), Pair(1, 2, "features", "c")][:1], audited(["train"] * 3, "aaa"))[0][1]
        == "duplicate"
    )


def test_the_table_has_the_columns_that_are_read_and_keeps_what_was_done():
    images = audited(["train", "test"], ["a,b", "ü"])
    found = in_order([Finding(1, "dark", "d"), Finding(0, "leak", 'say "x"', "exclude", 1)])
    before = [{"image": "old.jpg", "split": "train", "label": "a", "action": "exclude"}]
    lines = list(csv.DictReader(io.StringIO(to_csv(found, images, before))))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["image"], line["label"], line["problem"], line["detail"], line["action"]) for line in lines] == [
        ("old.jpg", "a", "corrected", "", "exclude"),
        ("0.jpg", "a,b", "leak", 'say "x"', ""),
        ("1.jpg", "ü", "dark", "d", ""),
    ]
