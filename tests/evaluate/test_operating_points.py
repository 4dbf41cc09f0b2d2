import numpy as np
import pytest

from jaxtl.evaluate.operating_points import (
    Above,
    above_threshold,
    expected_costs,
    measure_costs,
    precision_threshold,
    recall_threshold,
)

SCORES = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
POSITIVE = np.array([1, 1, 0, 1, 0, 0, 1, 0], bool)


def test_by_hand():
    # At or above 0.9: 1 of 1; 0.8: 2 of 3; 0.7: 3 of 4; 0.6: 3 of 5; 0.5: 3 of 6; 0.4: 4 of 7; 0.3: 4 of 8.
    cases = ((1.0, 0.9), (0.76, 0.9), (0.75, 0.7), (0.7, 0.7), (0.6, 0.6), (0.55, 0.4), (0.5, 0.3), (0.0, 0.3))
    assert [precision_threshold(SCORES, POSITIVE, wanted) for wanted, _ in cases] == [found for _, found in cases]
    cases = ((0.0, 0.9), (0.25, 0.9), (0.26, 0.8), (0.5, 0.8), (0.75, 0.7), (0.76, 0.4), (1.0, 0.4))
    assert [recall_threshold(SCORES, POSITIVE, wanted) for wanted, _ in cases] == [found for _, found in cases]
    assert above_threshold(SCORES, POSITIVE, 0.8) == Above(3, 4, 2 / 3, 0.5)
    assert above_threshold(SCORES, POSITIVE, 0.95).to_json() == {
        "precision": None,
        "recall": 0.0,
        "above": 0,
        "count": 4,
    }


def test_what_cannot_be_reached_is_none():
    assert precision_threshold(SCORES, ~POSITIVE, 0.75) is None  # The highest score is wrong.
    assert precision_threshold(SCORES, np.zeros(8, bool), 0.01) is None
    assert recall_threshold(SCORES, np.zeros(8, bool), 0.5) is None
    assert above_threshold(SCORES, np.zeros(8, bool), 0.8) == Above(3, 0, 0.0, None)


def test_shares_are_reached_whatever_their_rounding():
    scores, positive = np.arange(30) / 30, np.arange(30) >= 27
    assert precision_threshold(scores, positive, 0.1) == 0
    assert recall_threshold(scores, np.ones(30, bool), 0.1) == scores[27]


@pytest.mark.parametrize("seed", range(8))
def test_beside_scikit_learn(seed):
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 40, 120) / 40
    positive = rng.uniform(size=120) < scores
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    for wanted in (0.3, 0.5, 0.8, 0.95, 1.0):
        good = thresholds[precision[:-1] >= wanted]
        assert precision_threshold(scores, positive, wanted) == (good.min() if len(good) else None)
        assert recall_threshold(scores, positive, wanted) == thresholds[recall[:-1] >= wanted].max()
        threshold = recall_threshold(scores, positive, wanted)
        at, place = above_threshold(scores, positive, threshold), thresholds.tolist().index(threshold)
        assert (at.precision, at.recall) == (precision[place], recall[place])


COSTS = np.array([[0.0, 1.0, 5.0], [10.0, 0.0, 1.0], [-1.0, 2.0, 0.0]])


def test_the_decision_that_costs_least():
    probabilities = np.array([[0.5, 0.1, 0.4], [0.05, 0.9, 0.05], [0.8, 0.1, 0.1]])
    expected = expected_costs(probabilities, COSTS)
    # 0.1 * 10 - 0.4 | 0.5 + 0.8 | 2.5 + 0.1
    np.testing.assert_allclose(expected[0], [0.6, 1.3, 2.6])
    np.testing.assert_allclose(expected[2], [0.9, 1.0, 4.1])
    found = measure_costs(np.array([1, 1, 0]), probabilities, np.array([0, 1, 0]), COSTS)
    assert found.to_json() == {
        "cost": pytest.approx(10 / 3),
        "expected_cost": pytest.approx(expected.min(1).mean()),
        "cost_of_the_likeliest": pytest.approx(10 / 3),
        "changed": 0,
    }


def test_with_calibrated_probabilities_costs_are_as_expected_and_below_those_of_the_likeliest():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.uniform(size=(20_000, 1)) > probabilities.cumsum(1)).sum(1).clip(max=2)
    found = measure_costs(labels, probabilities, logits.argmax(1), COSTS)
    assert found.cost == pytest.approx(found.expected, abs=0.05)
    assert found.cost < found.likeliest - 0.2
    assert found.changed > 1000
    same = measure_costs(labels, probabilities, logits.argmax(1), 1 - np.eye(3))  # Each mistake costs 1.
    assert (same.changed, same.cost) == (0, np.mean(probabilities.argmax(1) != labels))


def test_the_likeliest_class_is_given_where_probabilities_are_rounded_to_the_same():
    found = measure_costs(np.array([1]), np.ones((1, 2)), np.array([1]), np.array([[0.0, 1.0], [3.0, 0.0]]))
    assert (found.cost, found.likeliest, found.changed) == (0, 0, 0)


def test_sigmoids_are_brought_to_shares():
    np.testing.assert_allclose(expected_costs(np.array([0.9, 0.3]), np.array([[0.0, 4.0], [8.0, 0.0]])), [2.0, 3.0])
    assert np.isfinite(expected_costs(np.zeros(2), np.ones((2, 2)))).all()
