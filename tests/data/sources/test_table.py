from pathlib import Path

import numpy as np
import pytest

from jaxtl.data.sources.table import read_csv
from jaxtl.errors import UserError


def write(root: Path, text: str, *images: str, encoding: str = "utf-8") -> str:
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(image.encode())
    (root / "table.csv").write_bytes(text.encode(encoding))
    return str(root / "table.csv")


def refusal(path: str) -> str:
    with pytest.raises(UserError) as error:
        read_csv(path)
    return str(error.value)


def test_names_as_labels(tmp_path):
    path = write(tmp_path, "image,label\nx/2.png,rose\n1.png,daisy\n", "x/2.png", "1.png")
    dataset = read_csv(path)["all"]
    assert dataset.classes == ("daisy", "rose")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.names == ("x/2.png", "1.png")
    assert dataset.read(0) == b"x/2.png"


def test_integers_are_class_indices_as_they_stand(tmp_path):
    path = write(tmp_path, "image,label,name\n1.png,7,owl\n2.png,3,\n", "1.png", "2.png")
    dataset = read_csv(path)["all"]
    assert dataset.labels.tolist() == [7, 3]
    assert dataset.classes == ("0", "1", "2", "3", "4", "5", "6", "owl")


def test_splits_extra_columns_quotes_and_byte_order_mark(tmp_path):
    text = 'id,Label , Image,split\n1,a,"with, comma.png",train\n2,b,2.png,val\n3,a,3.png,train\n'
    path = write(tmp_path, text, "with, comma.png", "2.png", "3.png", encoding="utf-8-sig")
    splits = read_csv(path)
    assert list(splits) == ["train", "validation"]
    assert splits["train"].names == ("with, comma.png", "3.png")
    assert splits["train"].read(1) == b"3.png"
    assert splits["validation"].labels.tolist() == [1]
    assert splits["validation"].read(0) == b"2.png"


def test_absolute_paths(tmp_path):
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes(b"far")
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", f"image,label\n{elsewhere},a\nnear.png,b\n", "near.png")
    assert read_csv(path)["all"].read(0) == b"far"


def test_refusals(tmp_path):
    assert "does not exist; a csv source has the columns image and label" in refusal(str(tmp_path / "no.csv"))
    assert "has no column label; its first line names ['image', 'class']" in refusal(write(tmp_path, "image,class\n"))
    assert "has no column image and no column label" in refusal(write(tmp_path, "image;label\n1.png;a\n"))
    assert "has no column" in refusal(write(tmp_path, ""))
    assert "no rows below its header" in refusal(write(tmp_path, "image,label\n"))
    assert "is not a table in UTF-8" in refusal(write(tmp_path, "image,label\né.png,a\n", encoding="latin-1"))
    assert "the label -1 is negative" in refusal(write(tmp_path, "image,label\n1.png,-1\n", "1.png"))


def test_numbers_that_are_no_class_indices(tmp_path):
    text = refusal(write(tmp_path, "image,label\n1.png,94105000\n2.png,10001000\n", "1.png", "2.png"))
    assert "the label 94105000 is too large for a class index; write names" in text


def test_a_semicolon_means_several_labels(tmp_path):
    images = ("1.png", "2.png", "3.png")
    dataset = read_csv(write(tmp_path, "image,label\n1.png,cat\n2.png,dog; cat\n3.png,eel\n", *images))["all"]
    assert dataset.several
    assert dataset.classes == ("cat", "dog", "eel")
    assert dataset.labels.dtype == np.uint8
    assert dataset.labels.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert dataset.class_counts().tolist() == [2, 1, 1]


def test_a_column_labels_means_several_and_may_be_empty(tmp_path):
    text = "image,labels,split\n1.png,cat;cat;,train\n2.png,,train\n3.png,dog,val\n"
    splits = read_csv(write(tmp_path, text, "1.png", "2.png", "3.png"))
    assert splits["train"].labels.tolist() == [[1, 0], [0, 0]]
    assert splits["validation"].labels.tolist() == [[0, 1]]


def test_several_class_indices(tmp_path):
    dataset = read_csv(write(tmp_path, "image,labels\n1.png,0;3\n2.png,1\n", "1.png", "2.png"))["all"]
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.labels.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]


@pytest.mark.parametrize(("column", "label"), [("label", "cat|dog"), ("labels", "cat|dog"), ("labels", "cat, dog")])
def test_another_separator_is_refused(tmp_path, column, label):
    text = refusal(
        write(tmp_path, f'image,{column}\n1.png,cat\n2.png,"{label}"\n3.png,dog\n', "1.png", "2.png", "3.png")
    )
    assert f"1 rows seem to have several labels, as line 3 has '{label}': separate them by ;, as in cat;dog" in text


def test_a_comma_may_belong_to_a_name(tmp_path):
    text = 'image,labels\n1.png,"tench, Tinca tinca;fish"\n2.png,fish\n'
    assert read_csv(write(tmp_path, text, "1.png", "2.png"))["all"].classes == ("fish", "tench, Tinca tinca")


def test_refusals_of_several_labels(tmp_path):
    both = refusal(write(tmp_path, "image,label,labels\n1.png,cat,cat\n", "1.png"))
    assert "has the columns label and labels: keep label where each image has one" in both
    missing = refusal(write(tmp_path, "image,label\n1.png,cat;dog\n2.png,\n", "1.png", "2.png"))
    assert "1 rows have no label (lines 3)" in missing
    named = refusal(write(tmp_path, "image,label,name\n1.png,0;1,owl\n", "1.png"))
    assert "the column name names the one class of an image" in named


def test_quantities_are_refused(tmp_path):
    images = [f"{i}.png" for i in range(6)]
    for values in ([0.25, 1.5, 2.75, 2.75, 7.0, 9.5], [-4, 5, 12, 7, 1, 0], [94105000 + i for i in range(12)]):
        rows = "".join(f"{i}.png,{value}\n" for i, value in enumerate(values))
        images = [f"{i}.png" for i in range(len(values))]
        text = refusal(write(tmp_path, f"image,label\n{rows}", *images))
        if values[0] != -4:
            assert "quantities, as in a regression" in text


def test_every_error_names_the_argument(tmp_path):
    for path in (str(tmp_path / "no.csv"), write(tmp_path, "image,class\n"), write(tmp_path, "image,label\n")):
        with pytest.raises(UserError) as error:
            read_csv(path)
        assert error.value.arguments == ("source",)


def test_all_problems_at_once(tmp_path):
    rows = [f"gone{i}.png,{i}" for i in range(5)] + ["here.png,", ",2", "here.png,3"]
    text = refusal(write(tmp_path, "image,label\n" + "\n".join(rows) + "\n", "here.png"))
    assert "5 of 8 images do not exist beside the table: gone0.png, gone1.png, gone2.png, ..." in text
    assert "1 rows have no label (lines 7)" in text
    assert "1 rows have no image (lines 8)" in text
    assert "1 images are listed more than once: here.png" in text


def test_one_class_has_one_name(tmp_path):
    text = refusal(write(tmp_path, "image,label,name\n1.png,0,owl\n2.png,0,eagle\n", "1.png", "2.png"))
    assert "label 0 is named 'owl' and 'eagle'" in text


def test_imagenet_sample(shared):
    dataset = read_csv(str(shared / "datasets/imagenet_sample_1000/labels.csv"))["all"]
    assert len(dataset.classes) == 1000
    np.testing.assert_array_equal(dataset.labels, np.arange(1000))
    assert dataset.classes[:2] == ("tench", "goldfish")
    assert dataset.read(0)[:2] == b"\xff\xd8"


def test_groups(tmp_path):
    text = "image,label,group,split\n1.png,a,p1,train\n2.png,b,p2,test\n3.png,a,p1,train\n"
    splits = read_csv(write(tmp_path, text, "1.png", "2.png", "3.png"))
    assert splits["train"].groups == ("p1", "p1")
    assert splits["test"].groups == ("p2",)
    assert read_csv(write(tmp_path, "image,label\n1.png,a\n"))["all"].groups is None
    assert "1 rows have no group (lines 3)" in refusal(write(tmp_path, "image,label,group\n1.png,a,p\n2.png,b,\n"))


def test_weights(tmp_path):
    text = "image,label,weight,split\n1.png,a,0.5,train\n2.png,b,3,test\n3.png,a,2,train\n"
    splits = read_csv(write(tmp_path, text, "1.png", "2.png", "3.png"))
    assert splits["train"].weights.tolist() == [0.5, 2.0]
    assert splits["test"].weights.tolist() == [3.0]
    assert read_csv(write(tmp_path, "image,label\n1.png,a\n"))["all"].weights is None
    rows = "".join(f"1.png,a,{weight}\n" for weight in ("1", "", "0", "-1", "nan", "inf", "x"))
    problem = "6 rows have a weight that is no positive number (lines 3, 4, 5"
    assert problem in refusal(write(tmp_path, f"image,label,weight\n{rows}"))
