import dataclasses

import numpy as np
import pytest

from jaxtl.evaluate import bootstrap
from jaxtl.evaluate.bootstrap import Judged, bootstrap_intervals
from jaxtl.evaluate.details import detailed_metrics
from jaxtl.evaluate.metrics import wilson_interval


def draw(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    predicted = np.where(rng.uniform(size=count) < 0.8, labels, rng.integers(0, classes, count))
    return Judged(labels, predicted, rng.exponential(size=count), rng.uniform(0.3, 1, count), classes)


def test_each_resample_has_the_metrics_of_its_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 12)
    logits = rng.normal(size=(12, 4)).astype(np.float32)
    index = rng.integers(0, 12, (5, 12))
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    judged = Judged(labels, logits.argmax(1), -np.log(p[np.arange(12), labels]), p.max(1), 4)
    for row, found in zip(index, bootstrap.metrics_of_draws(judged, index).T, strict=True):
        expected = detailed_metrics(labels[row], logits[row])
        names = ("accuracy", "balanced_accuracy", "log_loss", "ece")
        assert found[[0, 1, 3, 4]] == pytest.approx([expected[name] for name in names])
        assert found[2] == pytest.approx(expected["macro"]["f1"])


def test_the_interval_of_the_accuracy_is_about_wilsons():
    judged = draw(1000, 3)
    found = bootstrap_intervals(judged)["accuracy"]
    assert found == pytest.approx(wilson_interval(int(judged.correct.sum()), 1000), abs=5e-3)


def test_the_same_images_give_the_same_in_any_order_and_in_any_chunks(monkeypatch):
    judged = draw(100, 4)
    found = bootstrap_intervals(judged)
    order = np.random.default_rng(1).permutation(100)
    parts = {f.name: getattr(judged, f.name)[order] for f in dataclasses.fields(judged) if f.name != "classes"}
    assert bootstrap_intervals(Judged(**parts, classes=4)) == found
    monkeypatch.setattr(bootstrap, "_CHUNK", 700)
    assert bootstrap_intervals(judged) == found


def test_intervals_stay_what_results_of_earlier_runs_hold():
    assert bootstrap_intervals(draw(100, 4)) == {
        "accuracy": [0.65, 0.82],
        "balanced_accuracy": [0.642013, 0.820322],
        "macro_f1": [0.635519, 0.817034],
        "log_loss": [0.954173, 1.377275],
        "ece": [0.164837, 0.321055],
    }


def test_one_image_leaves_nothing_to_draw():
    found = bootstrap_intervals(Judged(np.array([1]), np.array([1]), np.array([0.5]), np.array([0.6]), 2))
    assert found["accuracy"] == found["balanced_accuracy"] == found["macro_f1"] == [1, 1]
    assert (found["log_loss"], found["ece"]) == ([0.5, 0.5], [0.4, 0.4])


@pytest.mark.slow
def test_ten_thousand_images_take_seconds():
    found = bootstrap_intervals(draw(10_000, 100))
    assert found["accuracy"][0] > 0.78
