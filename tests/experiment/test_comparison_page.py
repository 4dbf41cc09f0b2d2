import json
import re
from dataclasses import replace

import numpy as np
import pytest
from compared import write_eval, write_run, write_unfinished

from jaxtl.errors import UserError
from jaxtl.evaluate.alignment import Aligned
from jaxtl.evaluate.bootstrap import Judged
from jaxtl.experiment import comparison_page
from jaxtl.experiment.comparing import Paired, compare, read_runs
from jaxtl.experiment.comparison_page import check_output, class_table, page_of, write


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "<b>&", seed=0), write_run(folder / "b", seed=1, config={"train.seed": 1})]


@pytest.fixture(scope="module")
def found(pair):
    return compare(read_runs(pair))


@pytest.fixture
def without_charts(monkeypatch):
    """Drawing takes a second, which is spent where charts are looked at."""
    monkeypatch.setattr(comparison_page, "learning_curves", lambda runs, marks: [])


def sections(page):
    return re.findall(r'<h2 id="(\w+)"', page)


def judged(labels, predicted, classes):
    labels, predicted = np.array(labels), np.array(predicted)
    return Judged(labels, predicted, np.zeros(len(labels)), np.full(len(labels), 0.5), classes)


def test_the_page_has_all_sections_and_escapes_names(found):
    page = page_of(found)
    assert sections(page) == ["metrics", "differences", "curves", "classes", "images", "config", "cost"]
    assert "<b>&<" not in page
    assert "&lt;b&gt;&amp;" in page
    assert page.count("<svg") == 4
    test = found.paired.tests["b"]
    assert f"b right, &lt;b&gt;&amp; wrong: {test.only_second}</summary>" in page
    assert "train.seed" in page


def test_what_there_is_nothing_of_has_no_section(tmp_path, without_charts):
    runs = [write_unfinished(tmp_path / "a"), write_unfinished(tmp_path / "b")]
    page = page_of(compare(read_runs(runs)))
    assert sections(page) == ["metrics", "config", "cost"]
    assert "fewer than two runs have predictions" in page
    assert "The configs do not differ" in page


def test_evaluations_have_no_learning_curves(tmp_path):
    evals = [write_eval(tmp_path / "c"), write_eval(tmp_path / "d", seed=1)]
    assert "curves" not in sections(page_of(compare(read_runs(evals))))


def test_the_classes_that_differ_most_come_first(monkeypatch):
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    first = judged(labels, [0, 0, 1, 0, 2, 2, 3, 3], 5)
    second = judged(labels, [0, 0, 1, 1, 0, 0, 3, 3], 5)
    third = judged(labels, [0, 4, 1, 1, 2, 2, 3, 3], 5)
    names = ["cat", "dog", "emu", "fox", "gnu"]
    aligned = Aligned(names, [str(i) for i in range(8)], {"a": first, "b": second, "c": third}, {})
    table, left_out = class_table(Paired(aligned, "a", {"b": {}, "c": {}}, {}, {}, {}))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["emu", "2", "100.0 %", "0.0 %", "100.0 %", "-100.0"],
        ["cat", "2", "100.0 %", "100.0 %", "50.0 %", "-50.0"],
        ["dog", "2", "50.0 %", "100.0 %", "100.0 %", "+50.0"],
        ["fox", "2", "100.0 %", "100.0 %", "100.0 %", "+0.0"],
    ]
    assert (left_out, [row[-1].kind for row in table.rows]) == (0, ["bad", "bad", "good", ""])
    monkeypatch.setattr(comparison_page, "_MAX_CLASSES", 1)
    table, left_out = class_table(Paired(aligned, "a", {"b": {}, "c": {}}, {}, {}, {}))
    assert ([row[0].text for row in table.rows], left_out) == (["emu"], 3)


def test_at_most_fifty_images_are_named(found, without_charts):
    labels = np.zeros(60, int)
    both = {found.paired.baseline: judged(labels, labels, 3), "b": judged(labels, labels + 1, 3)}
    aligned = replace(found.paired.aligned, names=[f"{i}.png" for i in range(60)], judged=both)
    page = page_of(replace(found, paired=replace(found.paired, aligned=aligned)))
    assert "the surest mistakes first; the first 50" in page
    assert ("49.png" in page, "50.png" in page) == (True, False)


def test_files_are_written_over_those_of_an_earlier_comparison_alone(tmp_path, found, without_charts):
    folder = tmp_path / "new" / "compare"
    for _ in range(2):
        check_output(folder)
        assert [path.name for path in write(found, folder)] == ["compare.html", "compare.md", "compare.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["compare.html", "compare.json", "compare.md"]
    assert json.loads((folder / "compare.json").read_text())["split"] == "test"
    (folder / "compare.json").unlink()
    with pytest.raises(UserError, match=r"holds a compare.html that no comparison wrote"):
        check_output(folder)


def test_the_output_is_no_file_and_no_run(tmp_path, pair):
    with pytest.raises(UserError, match="is the workdir of a run"):
        check_output(pair[0])
    with pytest.raises(UserError, match="is a file"):
        check_output(pair[0] / "config.json")
    (tmp_path / "compare.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"holds a compare.json that no comparison wrote"):
        check_output(tmp_path)


def test_an_output_that_cannot_be_made_is_told(pair, found):
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        write(found, pair[0] / "config.json" / "below")
