import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from jaxtl.report import ranking

LABELS = np.array([0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.4, 0.8, 0.3, 0.7, 0.8, 0.9])


def test_points_lie_on_the_curves_of_scikit_learn():
    false, true, _ = roc_curve(LABELS, SCORES)
    np.testing.assert_allclose(ranking._roc(LABELS == 1, SCORES), np.interp(np.linspace(0, 1, 101), false, true))
    precision, recall, _ = precision_recall_curve(LABELS, SCORES)
    best = [precision[recall >= least].max() for least in np.linspace(0, 1, 101)]
    np.testing.assert_allclose(ranking._precision_recall(LABELS == 1, SCORES), best)


def test_a_perfect_ranking_reaches_the_corner():
    positive, scores = np.array([False, True]), np.array([0.2, 0.9])
    assert ranking._roc(positive, scores)[1:].tolist() == [1.0] * 100
    assert ranking._precision_recall(positive, scores).tolist() == [1.0] * 101


def test_of_two_classes_one_curve_tells_all():
    probabilities = np.stack([1 - SCORES, SCORES], 1)
    svg = ranking.roc_chart(LABELS, probabilities, ["no", "yes"])
    assert "ROC curves of 1 classes" in svg
    assert "yes</text>" in svg
    assert "no</text>" not in svg


def test_classes_without_images_have_no_curve():
    labels, probabilities = np.array([0, 0, 2, 2]), np.random.default_rng(0).dirichlet(np.ones(4), 4)
    svg = ranking.precision_recall_chart(labels, probabilities, ["a", "b", "c", "d"])
    assert "mean of 2 classes" in svg
    assert "b</text>" not in svg


@pytest.mark.parametrize("chart", [ranking.roc_chart, ranking.precision_recall_chart])
def test_one_class_alone_has_none(chart):
    assert chart(np.zeros(3, int), np.full((3, 2), 0.5), ["a", "b"]) is None
