import numpy as np
import pytest
from sklearn import metrics

from jaxtl.evaluate.cross_validation import TestFold, corrected_interval, summarise

CLASSES = ("ant", "bee", "cow")


def folds(counts=(20, 20, 19), repeats=2, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for repeat in range(1, repeats + 1):
        for number, count in enumerate(counts, start=1):
            labels = rng.integers(0, 3, count)
            logits = np.float32(np.eye(3)[labels] * 1.5 + rng.normal(size=(count, 3)))
            found.append(TestFold(number, repeat, tuple(map(str, range(count))), labels, logits, sum(counts) - count))
    return found


def test_the_interval_is_that_of_the_corrected_resampled_t_test():
    from scipy import stats

    values = np.random.default_rng(0).normal(0.9, 0.02, 15)
    low, high = corrected_interval(values, 1 / 4)
    variance = (1 / 15 + 1 / 4) * values.var(ddof=1)
    np.testing.assert_allclose((low, high), stats.t.interval(0.95, 14, values.mean(), np.sqrt(variance)))
    naive = stats.t.interval(0.95, 14, values.mean(), stats.sem(values))
    # Twice as wide and more: as if the folds were independent it would be too narrow.
    assert (high - low) / (naive[1] - naive[0]) == pytest.approx(np.sqrt(1 + 15 / 4))


def test_the_corrected_interval_holds_the_true_error_where_the_naive_one_does_not():
    from scipy import stats

    rng = np.random.default_rng(0)
    held = naive = 0
    for _ in range(500):
        sample = rng.normal(size=50)
        parts = [rng.permutation(50) for _ in range(20)]
        # What trains is the mean of forty numbers, and its squared error is measured on the other ten.
        errors = np.array([((sample[part[:10]] - sample[part[10:]].mean()) ** 2).mean() for part in parts])
        true = 1 + 1 / 40
        low, high = corrected_interval(errors, 10 / 40)
        held += low <= true <= high
        low, high = stats.t.interval(0.95, 19, errors.mean(), stats.sem(errors))
        naive += low <= true <= high
    assert naive < 0.7 * 500
    assert held > 0.9 * 500


def test_means_per_fold_and_per_class_are_those_of_scikit_learn():
    of = folds()
    found = summarise(of, CLASSES)
    accuracies = [metrics.accuracy_score(fold.labels, fold.logits.argmax(1)) for fold in of]
    assert [fold["accuracy"] for fold in found["per_fold"]] == pytest.approx(accuracies)
    assert found["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["metrics"]["accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    ratio = np.mean([len(fold.labels) / fold.trained for fold in of])
    assert found["test_to_train"] == pytest.approx(ratio)
    low, high = corrected_interval(np.array(accuracies), ratio)
    assert found["metrics"]["accuracy"]["interval"] == pytest.approx([low, min(high, 1.0)])
    scores = [
        metrics.precision_recall_fscore_support(fold.labels, fold.logits.argmax(1), zero_division=0) for fold in of
    ]
    for i, metric in enumerate(("precision", "recall", "f1")):
        for c, name in enumerate(CLASSES):
            assert found["per_class"][name][metric]["mean"] == pytest.approx(np.mean([score[i][c] for score in scores]))
    labels, predicted = (
        np.concatenate(each) for each in zip(*((f.labels, f.logits.argmax(1)) for f in of), strict=True)
    )
    assert found["confusion_matrix"] == metrics.confusion_matrix(labels, predicted).tolist()


def test_a_class_that_some_folds_lack_has_the_mean_of_the_others():
    logits = np.float32(np.eye(3)[[0, 0, 1, 1]])
    of = [
        TestFold(1, 1, tuple("abcd"), np.array([0, 0, 1, 1]), logits, 8),
        TestFold(2, 1, tuple("efgh"), np.array([0, 0, 0, 0]), logits, 8),
        TestFold(3, 1, tuple("ijkl"), np.array([0, 0, 1, 0]), logits, 8),
    ]
    found = summarise(of, CLASSES)
    bee = found["per_class"]["bee"]
    assert (bee["count"], bee["recall"]["folds"], bee["recall"]["mean"]) == (3, 2, 1.0)
    assert bee["recall"]["interval"] == [1.0, 1.0]
    assert found["per_class"]["cow"] == {"count": 0, "recall": None, "precision": None, "f1": None}
    assert found["metrics"]["accuracy"]["interval"][1] == 1.0  # No share is above.
