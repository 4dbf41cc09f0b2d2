import numpy as np
import pytest

from jaxtl.evaluate.rejection import coverage_curve, energy, has_energy, table


def test_by_hand():
    curve = coverage_curve(np.array([0.6, 0.9, 0.8, 0.7]), np.array([False, True, False, True]))
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.accuracy.tolist() == [1, 1 / 2, 2 / 3, 1 / 2]
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert [curve.threshold_for_accuracy(wanted) for wanted in (1.0, 0.6, 0.5, 0.4)] == [0.9, 0.7, 0.6, 0.6]
    assert [curve.threshold_for_coverage(wanted) for wanted in (0.0, 0.25, 0.3, 0.75, 1.0)] == [0.9, 0.9, 0.8, 0.7, 0.6]
    assert [curve.accuracy_at(share) for share in (1.0, 0.7, 0.1)] == [1 / 2, 2 / 3, 1]
    assert table(curve, (1.0, 0.75)) == {"aurc": curve.aurc, "accuracy_at": {"1": 0.5, "0.75": 2 / 3}}


def test_an_accuracy_that_cannot_be_reached():
    curve = coverage_curve(np.array([0.9, 0.8]), np.array([False, True]))
    assert curve.threshold_for_accuracy(0.6) is None
    assert curve.threshold_for_accuracy(0.5) == 0.8


def test_images_of_one_score_are_kept_together_and_their_order_changes_nothing():
    scores = np.array([0.5, 0.5, 0.5, 0.9])
    curves = [coverage_curve(scores, np.array(correct)) for correct in ([1, 0, 0, 1], [0, 0, 1, 1])]
    for curve in curves:
        assert (curve.coverage.tolist(), curve.accuracy.tolist()) == ([0.25, 1.0], [1, 0.5])
        # By the mean over their orders: 2/3 of an image wrong after the first of the three, 4/3 after the second.
        assert curve.aurc == pytest.approx((0 + 2 / 3 / 2 + 4 / 3 / 3 + 2 / 4) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_beside_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    scores, correct = rng.uniform(size=60), rng.uniform(size=60) < 0.7
    curve = coverage_curve(scores, correct)
    order = np.argsort(-scores)
    risks = [1 - correct[order[:kept]].mean() for kept in range(1, 61)]
    np.testing.assert_allclose(1 - curve.accuracy, risks)
    assert curve.aurc == pytest.approx(np.mean(risks))
    # What tells right from wrong wholly has the least area, its opposite the largest.
    best, worst = coverage_curve(correct + 0.1 * scores, correct), coverage_curve(0.1 * scores - correct, correct)
    assert best.aurc <= curve.aurc <= worst.aurc


def test_energy_is_the_log_of_summed_exponentials():
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(energy(logits), np.log(np.exp(logits).sum(1)))
    np.testing.assert_allclose(energy(logits, sigmoid=True), np.log1p(np.exp(logits)).sum(1))
    np.testing.assert_allclose(energy(logits[0]), np.log(np.exp(logits[0]).sum()))
    assert np.isfinite(energy(np.array([5e4, -5e4], np.float16)))


def test_one_logit_has_none():
    assert not has_energy(np.array([[0.0, 3.0], [0.0, -3.0]]))
    assert has_energy(np.array([[0.0, 3.0, 1.0]]))
