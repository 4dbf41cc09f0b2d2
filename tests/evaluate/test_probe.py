import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from jaxtl.evaluate.metrics import wilson_interval
from jaxtl.evaluate.plot import plot_depth
from jaxtl.evaluate.probe import (
    PENALTIES,
    Split,
    _fit_grid,
    _nearest,
    fit_linear,
    probe_knn,
    probe_linear,
)


def clusters(count, seed, spread=0.5):
    centres = np.random.default_rng(0).normal(size=(4, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count).astype(np.int32)
    return Split((centres[labels] + spread * rng.normal(size=(count, 8))).astype(np.float32), labels)


def test_nearest_neighbours_by_hand():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 5]], np.float32)
    labels = np.array([0, 1, 2, 2])
    predicted = _nearest(features, labels, np.array([[2, 0], [0, 3]], np.float32), (1, 4), 3)
    # Length does not count; with four neighbours the near ones still outvote the far pair.
    np.testing.assert_array_equal(predicted, [[0, 2], [0, 2]])


@pytest.mark.slow
def test_each_lane_is_the_minimum_that_another_solver_finds():
    minimize = pytest.importorskip("scipy.optimize").minimize
    split = clusters(60, 1, spread=2.0)
    in_train = np.arange(60) < 40
    shares = np.repeat([in_train / 40, np.full(60, 1 / 60)], len(PENALTIES), axis=0).astype(np.float32)
    penalties = np.tile(np.asarray(PENALTIES, np.float32), 2)
    fitted = np.asarray(_fit_grid(split.features, split.labels, shares, penalties, 4))
    assert fitted.shape == (2 * len(PENALTIES), 9, 4)

    def loss(flat, penalty, chosen):
        weights = flat.reshape(9, 4)
        logits = split.features[chosen].astype(np.float64) @ weights[:-1] + weights[-1]
        top = logits.max(-1)
        normaliser = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        own = logits[np.arange(len(logits)), split.labels[chosen]]
        return (normaliser - own).mean() + 0.5 * penalty * (weights[:-1] ** 2).sum()

    for index in (2, 4, 6, 8):
        for lane, chosen in ((index, in_train), (len(PENALTIES) + index, np.ones(60, bool))):
            least = minimize(loss, np.zeros(36), (PENALTIES[index], chosen)).fun
            assert loss(fitted[lane].ravel(), PENALTIES[index], chosen) == pytest.approx(least, abs=1e-4)


def test_probes_find_what_is_there_and_nothing_where_nothing_is():
    train, val, test = (clusters(count, seed) for seed, count in enumerate((200, 60, 400)))
    for probe in (probe_knn, probe_linear):
        score = probe(train, val, test, num_classes=4)
        assert score.accuracy > 0.97
        assert score.interval == tuple(wilson_interval(round(400 * score.accuracy), 400))
        shuffled = Split(train.features, np.random.default_rng(0).permutation(train.labels))
        assert probe(shuffled, Split(val.features[:9], val.labels[:9]), test, num_classes=4).accuracy < 0.6


def test_a_plot_is_an_image(tmp_path):
    plot_depth(tmp_path / "a.png", ["stem", "head"], {"knn": [(0.5, 0.4, 0.6), (0.7, 0.6, 0.8)]}, title="depth")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_linear_classifier_is_the_one_of_another_solver():
    train, val = clusters(60, 1, spread=2.0), clusters(30, 2, spread=2.0)
    found = fit_linear(train, val, num_classes=4)
    mean, std = train.features.mean(0), train.features.std(0)
    losses = {}
    for penalty in PENALTIES:
        other = LogisticRegression(C=1 / (60 * penalty), max_iter=2000, tol=1e-8)
        other.fit((train.features - mean) / std, train.labels)
        losses[penalty] = log_loss(val.labels, other.predict_proba((val.features - mean) / std)), other
    assert found.penalty == min(losses, key=lambda penalty: losses[penalty][0])
    loss, other = losses[found.penalty]
    assert found.loss == pytest.approx(loss, rel=1e-3)
    logits = val.features @ found.kernel + found.bias
    np.testing.assert_allclose(softmax(logits, axis=1), other.predict_proba((val.features - mean) / std), atol=2e-3)
    assert found.accuracy == np.mean(logits.argmax(1) == val.labels)
