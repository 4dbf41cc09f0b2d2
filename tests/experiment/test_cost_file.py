import pytest

from jaxtl.errors import UserError
from jaxtl.experiment.cost_file import read_costs

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def read(tmp_path):
    def read(text, encoding="utf-8"):
        (tmp_path / "costs.csv").write_text(text, encoding=encoding)
        return read_costs(tmp_path / "costs.csv", CLASSES).tolist()

    return read


def test_costs_go_by_name_in_any_order(read):
    expected = [[0, 1, 2], [3, 0, 5], [6, -7.5, 0]]
    assert read(",ant,bee,cat\nant,0,1,2\nbee,3,0,5\ncat,6,-7.5,0\n") == expected
    text = "true class, cat, ant , bee\n\ncat,0,6,-7.5\nant,2,0,1\n bee ,5,3,0\n"
    assert read(text) == expected
    assert read(text, "utf-8-sig") == expected  # As Excel writes it.


def test_all_wrong_names_are_listed(read):
    with pytest.raises(UserError) as found:
        read(",ant,bee,dog,bee\nant,0,1,2,3\nBee,3,0,5,6\n")
    assert str(found.value).splitlines()[0].endswith("costs.csv does not hold one number for each pair of classes:")
    assert [line.strip() for line in str(found.value).splitlines()[1:]] == [
        "its first row names no class of the run: 'dog'",
        "its first row lacks: 'cat'",
        "its first row names twice: 'bee'",
        "its first column names no class of the run: 'Bee'",
        "its first column lacks: 'bee', 'cat'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: give a row of class names"),
        (",ant,bee,cat\nant,0,1\nbee,3,0,5\ncat,6,7,0\n", "the row of 'ant' has 2 costs"),
        (",ant,bee,cat\nant,0,1,2\nbee,x,0,5\ncat,6,nan,0\n", "the cost of 'ant' for 'bee' is 'x', which is no number"),
        (",ant,bee,cat\nant,0,1,2\nbee,3,0,5\ncat,6,,inf\n", "the cost of 'cat' for 'cat' is 'inf'"),
    ],
)
def test_what_is_no_table_of_numbers(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_costs(tmp_path / "none.csv", CLASSES)
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="is no CSV file"):
        read_costs(tmp_path / "photo.csv", CLASSES)
