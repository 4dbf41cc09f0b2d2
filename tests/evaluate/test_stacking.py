import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from jaxtl.evaluate.stacking import fit_correction, fit_stacking, folds, stacking_features


def draw(images, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    return labels, log_softmax(rng.normal(size=(2, images, classes)) + np.eye(classes)[labels], -1)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_where_the_mean_says_nothing_it_is_the_logistic_regression_of_scikit_learn(strength):
    labels, logs = draw(90, 3)
    features = stacking_features(logs)
    found = fit_correction(labels, features, np.zeros((90, 3)), strength)
    inputs = np.concatenate([features, np.ones((90, 1))], axis=1)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=2000, tol=1e-8).fit(inputs, labels)
    np.testing.assert_allclose(found, model.coef_, atol=1e-4)


def test_without_a_correction_it_is_the_mean(monkeypatch):
    monkeypatch.setattr("jaxtl.evaluate.stacking._STRENGTHS", (0.0,))
    labels, logs = draw(20, 4)
    coefficients, intercept, loss = fit_stacking(labels, logs)
    found = log_softmax(stacking_features(logs) @ coefficients.T + intercept, -1)
    expected = log_softmax(logs.mean(0), -1)
    np.testing.assert_allclose(found, expected)
    assert loss == pytest.approx(-expected[np.arange(20), labels].mean())


def test_each_image_is_judged_once_and_each_class_is_spread_over_the_folds():
    labels = np.repeat([0, 1, 2], [10, 4, 1])
    split = folds(labels)
    assert sorted(np.concatenate([unseen for _, unseen in split])) == list(range(15))
    for seen, unseen in split:
        assert sorted([*seen, *unseen]) == list(range(15))
        assert (labels[unseen] == 0).sum() == 2
        assert (labels[unseen] == 1).sum() <= 1
