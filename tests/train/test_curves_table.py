import io

import pytest

from jaxtl.train.curves_table import CurvesTable, sparkline


def test_a_sparkline_has_a_block_for_each_mean():
    assert sparkline([0, 7], 8) == "▁█"
    assert sparkline([1, 1, 1], 8) == "▁▁▁"
    assert sparkline([0, 2, 6, 8], 2) == "▁█"
    assert sparkline([0, float("nan"), 7], 8) == "▁█"
    assert sparkline([], 8) == ""


def lines():
    for step in range(1, 6):
        yield {"step": step, "split": "train", "loss": 1 / step, "learning_rate": 0.01, "grad_norm": 3.0}
        yield {"step": step, "split": "val", "loss": 2 / step, "accuracy": 0.1 * step}


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_fits_and_every_terminal_can_show_it(monkeypatch, columns, encoding):
    monkeypatch.setenv("COLUMNS", str(columns))
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    CurvesTable(lines()).show(file)
    file.flush()
    text = file.buffer.getvalue().decode(encoding)
    rows = text.rstrip("\n").split("\n")
    assert len(rows) == 5
    assert max(map(len, rows)) <= columns
    assert [row.split("  ")[0].strip() for row in rows[1:]] == [
        "train loss",
        "val loss",
        "val accuracy",
        "learning rate",
    ]
    assert "50.0 %" in rows[3]
    assert ("█" in text) == (encoding == "utf-8")
