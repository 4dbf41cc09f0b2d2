import numpy as np
import pytest

from jaxtl.evaluate.calibration import (
    adaptive_calibration_error,
    bin_of,
    brier_score,
    expected_calibration_error,
    reliability_bins,
)


def test_a_bin_holds_its_upper_edge():
    assert bin_of(np.array([0.0, 1e-9, 0.1, 0.5, 0.51, 1.0]), 2).tolist() == [0, 0, 0, 0, 1, 1]


def test_by_hand():
    confidences, correct = np.array([0.25, 0.5, 0.75, 1.0]), np.array([True, False, True, True])
    # (0, 1/2]: 1 right of 0.75; (1/2, 1]: 2 right of 1.75.
    assert expected_calibration_error(confidences, correct, bins=2) == 0.125
    # Of one bin for each image, the gaps are those of the images; bins without images do not count.
    assert adaptive_calibration_error(confidences, correct, bins=4) == (0.75 + 0.5 + 0.25 + 0) / 4
    assert adaptive_calibration_error(confidences, correct, bins=9) == (0.75 + 0.5 + 0.25 + 0) / 4


def test_beside_a_plain_loop():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.1, 1, 500)
    correct = rng.uniform(size=500) < confidences**2
    total = 0.0
    for low in range(15):
        inside = (confidences > low / 15) & (confidences <= (low + 1) / 15)
        if inside.any():
            total += inside.sum() / 500 * abs(correct[inside].mean() - confidences[inside].mean())
    assert expected_calibration_error(confidences, correct) == pytest.approx(total)


def test_confidence_that_is_right_has_no_error():
    confidences = np.repeat([0.75, 0.5], [8, 8])
    correct = np.tile([True, True, True, False], 2).tolist() + [True, False] * 4
    assert expected_calibration_error(confidences, np.array(correct)) == 0
    assert adaptive_calibration_error(confidences, np.array(correct), bins=2) == 0


def test_bins_of_a_reliability_diagram():
    bins = reliability_bins(np.array([0.25, 0.5, 0.75, 1.0]), np.array([True, False, True, True]), bins=4)
    assert bins.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert (bins.counts.tolist(), bins.confidence.tolist()) == ([1, 1, 1, 1], [0.25, 0.5, 0.75, 1.0])
    assert bins.accuracy.tolist() == [1, 0, 1, 1]
    empty = reliability_bins(np.array([0.9, 1.0]), np.array([True, False]), bins=2)
    assert (empty.counts.tolist(), np.isnan(empty.accuracy).tolist()) == ([0, 2], [True, False])
    assert empty.to_json() == {
        "edges": [0, 0.5, 1],
        "counts": [0, 2],
        "confidence": [None, 0.95],
        "accuracy": [None, 0.5],
    }


def test_scikit_learn_draws_the_same_diagram():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=400)
    correct = rng.uniform(size=400) < confidences
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=10)
    bins = reliability_bins(confidences, correct, bins=10)
    np.testing.assert_allclose(bins.accuracy, accuracy)
    np.testing.assert_allclose(bins.confidence, confidence)


def test_the_brier_score_by_hand():
    # The distance of (0.2, 0.2, 0.6) from (0, 1, 0), squared.
    assert brier_score(np.array([1]), np.array([[0.2, 0.2, 0.6]])) == pytest.approx(0.04 + 0.64 + 0.36)
