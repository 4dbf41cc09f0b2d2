import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics

from jaxtl.evaluate.cross_validation import TestFold, corrected_interval, summarise
from jaxtl.evaluate.metrics import wilson_interval

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
    hits = sum(int((fold.logits.argmax(1) == fold.labels).sum()) for fold in of)
    lowest, highest = wilson_interval(round(hits / 2), 59)
    assert found["metrics"]["accuracy"]["interval"] == pytest.approx([min(low, lowest), max(min(high, 1.0), highest)])
    losses = [metrics.log_loss(fold.labels, softmax(fold.logits, axis=1), labels=[0, 1, 2]) for fold in of]
    assert found["metrics"]["log_loss"]["interval"] == pytest.approx(corrected_interval(np.array(losses), ratio))
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
    assert bee["recall"]["interval"] == pytest.approx([0.438503, 1.0], abs=2e-6)  # Wilson's of 3 of 3.
    assert found["per_class"]["cow"] == {"count": 0, "recall": None, "precision": None, "f1": None}
    assert found["metrics"]["accuracy"]["interval"][1] == 1.0  # No share is above.


@pytest.mark.parametrize("repeats", [1, 3])
def test_folds_that_agree_are_no_certainty(repeats):
    """Two folds with 40 of 48 right each: of 96 images 80 are right, however often they are counted."""
    labels = np.repeat([0, 1], 24)
    logits = np.float32(np.eye(2)[np.r_[np.zeros(24, int), np.ones(16, int), np.zeros(8, int)]])
    names = [tuple(f"{number}_{i}" for i in range(48)) for number in (1, 2)]
    of = [TestFold(k, r, names[k - 1], labels, logits, 48) for r in range(1, repeats + 1) for k in (1, 2)]
    found = summarise(of, ("ant", "bee"))
    assert found["metrics"]["accuracy"]["interval"] == pytest.approx([0.74629, 0.894726], abs=2e-6)
    of_ant, of_bee = (found["per_class"][name] for name in ("ant", "bee"))
    assert (of_ant["count"], of_ant["recall"]["mean"]) == (48, 1.0)
    for of_class, metric, hits, count in (
        (of_ant, "recall", 48, 48),
        (of_ant, "precision", 48, 64),
        (of_bee, "recall", 32, 48),
    ):
        wilson = binomtest(hits, count).proportion_ci(method="wilson")
        assert of_class[metric]["interval"] == pytest.approx([wilson.low, wilson.high], abs=2e-6)
