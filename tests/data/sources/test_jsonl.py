import pytest

from jaxtl.data import open_source
from jaxtl.data.sources.jsonl import read_jsonl
from jaxtl.errors import UserError

CAT, DOG = '{"image": "1.png", "labels": ["cat", "dog"]}', '{"image": "2.png", "labels": []}'


def write(root, *lines):
    for image in ("1.png", "2.png", "3.png"):
        (root / image).write_bytes(image.encode())
    (root / "list.jsonl").write_text("\n".join(lines))
    return str(root / "list.jsonl")


def refusal(path):
    with pytest.raises(UserError) as error:
        read_jsonl(path)
    assert error.value.arguments == ("source",)
    return str(error.value)


def test_lists_of_labels(tmp_path):
    dataset = read_jsonl(write(tmp_path, CAT, "", DOG))["all"]
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [[1, 1], [0, 0]]
    assert dataset.names == ("1.png", "2.png")
    assert dataset.read(1) == b"2.png"


def test_one_label_and_splits(tmp_path):
    one = '{"image": "1.png", "label": "cat; the pet", "split": "train"}'
    splits = read_jsonl(write(tmp_path, one, '{"image": "2.png", "label": "dog", "split": "val"}'))
    assert list(splits) == ["train", "validation"]
    assert not splits["train"].several
    assert splits["train"].classes == ("cat; the pet", "dog")
    assert splits["validation"].labels.tolist() == [1]


def test_either_name_of_the_source(tmp_path):
    path = write(tmp_path, CAT, DOG)
    for kind in ("jsonl", "csv"):
        assert open_source(f"{kind}:{path}").splits["all"].labels.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{image: 2}", "line 2: no JSON: '{image: 2}'"),
        ("[1]", 'line 2: no object with "image" and "labels", but '),
        ('{"image": "2.png", "labels": ["cat", 3]}', 'line 2: the label 3 is no string: write "3" if that is its name'),
        ('{"image": "2.png", "labels": "cat"}', 'line 2: "labels" is "cat", but it must be a list of names'),
        ('{"image": "2.png"}', 'line 2: it has neither of "label" and "labels"'),
        ('{"image": "2.png", "label": "a", "labels": []}', 'line 2: it has both of "label" and "labels"'),
        ('{"image": "2.png", "label": "cat"}', 'some lines have "label" (lines 2) and some "labels" (lines 1)'),
        ('{"image": 2, "labels": []}', 'line 2: "image" and "split" must be strings'),
        ('{"image": "4.png", "labels": []}', "1 of 2 images do not exist beside the table: 4.png"),
        ('{"labels": []}', "1 rows have no image (lines 2)"),
        ('{"image": "2.png", "labels": [""]}', "1 rows have no label (lines 2)"),
    ],
)
def test_refusals(tmp_path, line, problem):
    assert problem in refusal(write(tmp_path, CAT, line))


def test_files_that_are_none(tmp_path):
    assert "does not exist; a jsonl source has a line" in refusal(str(tmp_path / "no.jsonl"))
    assert "has no lines" in refusal(write(tmp_path, "", " "))
    (tmp_path / "list.jsonl").write_bytes("é".encode("latin-1"))
    assert "cannot be read as UTF-8" in refusal(str(tmp_path / "list.jsonl"))


def test_many_problems_are_counted(tmp_path):
    text = refusal(write(tmp_path, *["no"] * 8))
    assert "line 5: no JSON" in text
    assert "3 more lines are wrong" in text


def test_groups_are_strings_or_whole_numbers(tmp_path):
    def line(number, group):
        return f'{{"image": "{number}.png", "label": "cat"{group}}}'

    path = write(tmp_path, line(1, ', "group": "p 1"'), line(2, ', "group": 7'))
    assert read_jsonl(path)["all"].groups == ("p 1", "7")
    said = refusal(write(tmp_path, line(1, ', "group": "p"'), line(2, ""), line(3, "")))
    assert '2 lines have no "group" (lines 2, 3) and the others have: give each its group' in said
    assert '"group" is 1.5, but it must be a string or a whole number' in refusal(
        write(tmp_path, line(1, ', "group": 1.5'))
    )


def test_weights_are_positive_numbers(tmp_path):
    def line(number, weight):
        return f'{{"image": "{number}.png", "label": "cat"{weight}}}'

    path = write(tmp_path, line(1, ', "weight": 0.5'), line(2, ', "weight": 3'))
    assert read_jsonl(path)["all"].weights.tolist() == [0.5, 3.0]
    said = refusal(write(tmp_path, line(1, ', "weight": 1'), line(2, "")))
    assert '1 lines have no "weight" (lines 2) and the others have: give each a weight, 1 where it counts once' in said
    for wrong in ("0", "-1", "true", '"2"', "NaN", "Infinity"):
        said = refusal(write(tmp_path, line(1, f', "weight": {wrong}')))
        assert '"weight" is ' in said
        assert "but it must be a positive number" in said
