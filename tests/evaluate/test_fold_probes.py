import numpy as np
import pytest

from jaxtl.data.cuts import TEST, TRAIN, VAL
from jaxtl.evaluate import fold_probes
from jaxtl.evaluate.details import probabilities_of, to_probabilities
from jaxtl.evaluate.probe import PENALTIES


def problem(count=90, width=6, classes=3, folds=4, seed=0):
    """Overlapping clusters whose features differ in size, and folds of a fifth to test and a fifth to validate."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int32)
    features = rng.normal(size=(classes, width))[labels] + 1.5 * rng.normal(size=(count, width))
    features = np.float32(features * np.logspace(-1, 2, width) + 5)
    sides = np.stack([rng.permutation(np.repeat([TRAIN, TRAIN, TRAIN, VAL, TEST], count // 5)) for _ in range(folds)])
    return features, labels, sides.astype(np.int8)


def test_each_fold_is_what_scikit_learn_finds_in_it_alone():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels, sides = problem()
    found = fold_probes.probe_folds(features, labels, sides, num_classes=3)
    assert found.logits.shape == (4, 90, 3)

    def fit(rows, train, penalty):
        mean, std = features[train].mean(0, dtype=np.float64), features[train].std(0, dtype=np.float64)
        scaled = (features - mean) / std
        # Its C is of the sum of the losses, the penalty here of their mean.
        model = linear_model.LogisticRegression(C=1 / (penalty * rows.sum()), tol=1e-8, max_iter=10_000)
        return model.fit(scaled[rows], labels[rows]), scaled

    for fold, side in enumerate(sides):
        train, val, held = side == TRAIN, side == VAL, side != TEST
        losses, right = [], []
        for penalty in PENALTIES:
            model, scaled = fit(train, train, penalty)
            losses.append(-model.predict_log_proba(scaled[val])[np.arange(val.sum()), labels[val]].mean())
            right.append((model.predict(scaled[val]) == labels[val]).mean())
        best = int(np.argmin(losses))
        assert found.penalties[fold] == pytest.approx(PENALTIES[best])
        assert found.val[fold] == pytest.approx(right[best])
        model, scaled = fit(held, train, PENALTIES[best])
        np.testing.assert_allclose(
            to_probabilities(found.logits[fold], sigmoid=False), model.predict_proba(scaled), atol=1e-4
        )


def test_fits_in_parts_and_folds_alone_give_the_same(monkeypatch):
    features, labels, sides = problem()
    whole = fold_probes.probe_folds(features, labels, sides, num_classes=3)
    monkeypatch.setattr(fold_probes, "_LOGITS", 90 * 3 * 5)  # Five fits at a time, of 36.
    parts = fold_probes.probe_folds(features, labels, sides, num_classes=3)
    alone = fold_probes.probe_folds(features, labels, sides[2:3], num_classes=3)
    assert parts.penalties.tolist() == whole.penalties.tolist()
    for found, expected in ((parts.logits, whole.logits), (alone.logits, whole.logits[2:3])):
        for side, first, second in zip(sides if len(found) == 4 else sides[2:3], found, expected, strict=True):
            test = side == TEST
            assert (first[test].argmax(1) == second[test].argmax(1)).all()
            losses = [probabilities_of(labels[test], each[test], sigmoid=False)[1].mean() for each in (first, second)]
            assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_fold_without_a_side_is_refused():
    features, labels, sides = problem()
    with pytest.raises(ValueError, match="a fold has no example of the side 1"):
        fold_probes.probe_folds(features, labels, np.where(sides == VAL, TRAIN, sides), num_classes=3)
