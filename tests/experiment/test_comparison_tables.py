import json

import pytest
from compared import write_run, write_unfinished

from jaxtl.evaluate.paired import Difference
from jaxtl.experiment import comparison_tables as tables
from jaxtl.experiment.comparing import compare, read_runs
from jaxtl.experiment.comparison_tables import Cell, Table
from jaxtl.experiment.verdicts import verdicts


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, seed=seed, config={"train.seed": seed}) for seed, name in enumerate("abc")]
    return compare(read_runs([*runs, write_unfinished(folder / "begun")]))


def cells(table):
    return {row[0].text: dict(zip(table.header[1:], row[1:], strict=True)) for row in table.rows}


def test_metrics_have_their_intervals(found):
    rows = cells(tables.metrics_table(found))
    value, (low, high) = found.metrics["a"]["log_loss"], found.metrics["a"]["intervals"]["log_loss"]
    assert rows["a"]["log loss"] == Cell(f"{value:.4f}", f"({low:.3f} to {high:.3f})", value)
    assert rows["a"]["images"].text == "30"
    assert "top-5" not in rows["a"]
    assert {cell.text for cell in rows["begun"].values()} == {"not finished", "–"}


def test_the_interval_of_an_accuracy_is_that_of_the_runs_page():
    metrics = {"accuracy": 0.5, "accuracy_interval": [0.25, 0.75], "intervals": {"accuracy": [0.3, 0.7]}}
    assert tables._metric_cell(tables._METRICS[0], metrics) == Cell("50.0 %", "(25 to 75)", 0.5)
    metrics = {"accuracy": 1.0, "accuracy_interval": [0.8865, 1.0], "intervals": {"accuracy": [1.0, 1.0]}}
    assert tables._metric_cell(tables._METRICS[0], metrics) == Cell("100.0 %", "(89 to 100)", 1.0)


def test_an_interval_without_a_width_is_none():
    metrics = {"balanced_accuracy": 1.0, "intervals": {"balanced_accuracy": [1.0, 1.0]}}
    assert tables._metric_cell(tables._METRICS[1], metrics) == Cell("100.0 %", "", 1.0)


@pytest.mark.parametrize(
    ("key", "value", "interval", "expected"),
    [
        ("accuracy", 0.0325, [0.011, 0.05], ("+3.2", "(+1.1 to +5.0)*", "good")),
        ("accuracy", -0.03, [-0.06, 0.0], ("-3.0", "(-6.0 to +0.0)", "")),
        ("log_loss", 0.25, [0.125, 0.5], ("+0.2500", "(+0.1250 to +0.5000)*", "bad")),
        ("ece", -0.25, [-0.5, -0.125], ("-25.0", "(-50.0 to -12.5)*", "good")),
        ("accuracy", 0.0, [0.0, 0.0], ("+0.0", "(+0.0 to +0.0)", "")),
    ],
)
def test_a_difference_is_good_or_bad_where_its_interval_leaves_0_out(key, value, interval, expected):
    (metric,) = (each for each in tables._METRICS if each.key == key)
    cell = tables._difference_cell(metric, Difference(value, interval))
    assert (cell.text, cell.more, cell.kind) == expected


def test_several_runs_have_holms_p_values(found):
    rows = cells(tables.differences_table(found))
    assert list(rows) == ["b", "c"]
    assert rows["b"]["McNemar's p"].value == found.paired.tests["b"].p
    assert rows["b"]["Holm's p"].value == found.paired.adjusted["b"] >= found.paired.tests["b"].p
    assert rows["c"]["right in run only"].text == str(found.paired.tests["c"].only_second)


def test_the_verdicts_come_last(found):
    lines = verdicts(found)
    assert [" by Holm." in line for line in lines] == [True, True]
    assert tables.to_text(found).endswith("\n\n".join(lines) + "\n")


def test_facts_are_those_that_a_run_has(found):
    rows = cells(tables.facts_table(found))
    assert rows["parameters, total"]["a"].text == "1,234,567"
    assert rows["time, total"]["a"].text == "1 min 15 s"
    assert rows["memory of a step, MiB"]["a"].text == "1"
    assert (rows["model"]["begun"].text, rows["weights"]["begun"].text) == ("vit_ti16", "none")
    assert rows["steps"]["begun"].text == "–"
    assert rows["workdir"]["begun"].text.endswith("/begun")


def test_markdown_is_aligned_and_keeps_to_its_columns():
    table = Table(
        ["run", "accuracy"], [[Cell("a|b"), Cell("5.0 %", "(1 to 9)")], [Cell("c"), Cell("–")]], [False, True]
    )
    assert tables.to_markdown(table).splitlines() == [
        "| run  |       accuracy |",
        "| ---- | -------------: |",
        "| a\\|b | 5.0 % (1 to 9) |",
        "| c    |              – |",
    ]


def test_the_text_has_all_tables_and_notes(found):
    text = tables.to_text(found)
    for expected in (
        "Metrics on test",
        "Differences from a on the same 30 images",
        "| train.seed | 0",
        "- note: begun",
    ):
        assert expected in text


def test_json_holds_what_the_tables_show(found):
    values = json.loads(json.dumps(tables.to_json(found)))
    assert (values["split"], values["images"], values["baseline"]) == ("test", 30, "a")
    difference = found.paired.differences["b"]["accuracy"]
    assert values["differences"]["b"]["accuracy"] == {"value": difference.value, "interval": difference.interval}
    test = values["differences"]["b"]["mcnemar"]
    assert list(test) == ["only_first", "only_second", "p", "holm_p"]
    p, holm_p = found.paired.of_loss["b"]
    assert values["differences"]["b"]["t_test"] == {"p": p, "holm_p": holm_p}
    assert values["runs"]["begun"]["finished"] is False
    assert values["config"]["train.seed"] == {"a": 0, "b": 1, "c": 2, "begun": 0}


def test_an_ensemble_has_no_config_that_could_differ(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "both"))]
    results = json.loads((runs[1] / "results.json").read_text())
    results["val"]["in_sample"] = True
    (runs[1] / "results.json").write_text(json.dumps({**results, "ensemble": {"members": ["a", "b"]}}))
    text = tables.to_text(compare(read_runs(runs)))
    assert "No configs are compared: both is an ensemble.\n" in text
    assert "- note: both is an ensemble of a, b: it has no config\n" in text
    other = write_run(tmp_path / "c", config={"train.seed": 3})
    third = compare(read_runs([*runs, other]), split="val")
    assert third.config == {"train.seed": {"a": 0, "c": 3}}
    assert tables.config_table(third).header == ["key", "a", "c"]
    assert "both was fitted to val, so its metrics on it are in-sample: too good" in third.notes
