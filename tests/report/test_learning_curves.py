import json
import re

from jaxtl.report.learning_curves import Marks, curve, learning_curves, parse_metrics


def lines(accuracies, *, every=4, averaged=False):
    found = []
    for number, accuracy in enumerate(accuracies, 1):
        step = every * number
        found.append({"step": step, "split": "train", "loss": 2.0 / number, "learning_rate": 0.1 / number})
        found.append({"step": step, "split": "val", "loss": 2.5 / number, "accuracy": accuracy})
        if averaged:
            found.append({"step": step, "split": "val_ema", "loss": 2.4 / number, "accuracy": accuracy})
    return found


def titles(charts):
    return [re.search(r'aria-label="([^".]+)', chart).group(1) for chart in charts]


def test_what_is_no_whole_line_is_left_out():
    whole = lines([0.5, 0.75])
    text = "\n".join(map(json.dumps, whole)) + '\n[1]\n{"step": 3}\n\n{"step": 9, "split": "val", "accuracy": 0.'
    assert parse_metrics(text) == whole
    assert parse_metrics("") == []


def test_a_curve_has_the_last_finite_value_of_each_step():
    rows = parse_metrics(
        '{"step": 2, "split": "val", "loss": 0.5}\n{"step": 1, "split": "val", "loss": 1}\n'
        '{"step": 2, "split": "val", "loss": 0.25}\n{"step": 3, "split": "val", "loss": NaN}\n'
        '{"step": 4, "split": "val"}\n{"step": 4, "split": "train", "loss": 7}'
    )
    found = curve("run", rows, "val", "loss")
    assert (found.steps, found.values) == ([1, 2], [1.0, 0.25])


def test_one_run_has_train_and_val_in_one_chart():
    marks = Marks({"a": 8}, stages=(4, 6), steps_per_epoch={"a": 2})
    charts = learning_curves({"a": lines([0.25, 0.5, 0.375])}, marks)
    assert titles(charts) == ["loss", "accuracy on val", "learning rate of the head"]
    for text in (">epochs<", "best, step 8<", "train<", "val<", "a stage ends<"):
        assert text in charts[0]
    assert charts[0].count("a stage ends<") == 1
    assert "a, val: 25 at step 4, 37.5 at step 12" in charts[1]


def test_a_logarithmic_axis_has_plain_numbers():
    rows = [{"step": step, "split": "train", "loss": loss} for step, loss in ((1, 20.0), (2, 0.5), (3, 0.05))]
    (chart,) = learning_curves({"a": rows})
    assert "mathdefault" not in chart
    assert "$" not in chart
    for text in (">0.1<", ">1<", ">10<"):
        assert text in chart


def test_several_runs_lie_over_each_other():
    runs = {"a": lines([0.25, 0.5]), "b": lines([0.5], averaged=True), "not begun": []}
    charts = learning_curves(runs, Marks({"a": 8}, stages=(4,), steps_per_epoch={"a": 2}))
    assert titles(charts) == ["accuracy on val", "loss on val", "loss in training", "learning rate of the head"]
    # Steps, since nobody knows the epochs of b; borders of stages would be those of one run only.
    assert ">steps<" in charts[0]
    assert "a stage ends" not in charts[0]
    assert "b, averaged weights<" in charts[0]
    assert "not begun<" not in charts[0]


def test_a_run_that_has_only_begun_shows_what_it_has():
    assert learning_curves({"a": []}) == []
    assert titles(learning_curves({"a": lines([0.5])[:1]})) == ["loss", "learning rate of the head"]


def test_a_name_is_text_and_always_in_the_legend():
    (chart,) = learning_curves({"_<b>&": [], "other": [{"step": 1, "split": "val", "accuracy": 1.0}]})
    assert "other<" in chart
    chart, *_ = learning_curves({"_<b>&": lines([0.5]), "other": []})
    assert "_&lt;b&gt;&amp;<" in chart
    assert "<b>" not in chart


def test_equal_runs_give_equal_bytes():
    first, second = (learning_curves({"a": [{"step": 1, "split": "val", "accuracy": 1.0}]}) for _ in range(2))
    assert first == second


def test_more_runs_than_colours_differ_in_dashes():
    runs = {f"run {number}": [{"step": 1, "split": "val", "accuracy": 0.5}] for number in range(7)}
    (chart,) = learning_curves(runs)
    assert all(f"run {number}<" in chart for number in range(7))
    assert "stroke-dasharray" in chart
