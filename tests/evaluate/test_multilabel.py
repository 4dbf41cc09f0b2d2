import warnings

import numpy as np
import pytest
from sklearn import metrics

from jaxtl.evaluate.multilabel import (
    choose_thresholds,
    decision_metrics,
    log_losses,
    mean_average_precision,
    multilabel_metrics,
)
from jaxtl.evaluate.multilabel_bootstrap import multilabel_intervals

LABELS = np.uint8([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
LOGITS = np.float32([[2, -1, -1], [-1, 3, -2], [-3, -1, -1], [1, 1, -1]])


def draw(seed, images=60, number=5):
    """Random labels, of which the last is nobody's and the first everybody's in one case of four; logits with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, number)) < 0.3).astype(np.uint8)
    labels[:, -1] = 0
    if seed % 4 == 0:
        labels[:, 0] = 1
    return labels, np.round(rng.normal(size=(images, number)) + labels, 1).astype(np.float32)


def test_by_hand():
    found = multilabel_metrics(LABELS, LOGITS, ("a", "b", "c"))
    # Right are the first and the third image; wrong are two of twelve labels.
    assert (found["subset_accuracy"], found["hamming_loss"]) == (0.5, 2 / 12)
    a, b, c = (found["per_class"][name] for name in "abc")
    assert (a["precision"], a["recall"], a["f1"], a["specificity"], a["count"]) == (0.5, 0.5, 0.5, 0.5, 2)
    assert (b["precision"], b["recall"], b["f1"], b["specificity"]) == (1, 1, 1, 1)
    assert {key: c[key] for key in ("precision", "recall", "f1", "roc_auc", "average_precision", "count")} == {
        **dict.fromkeys(("precision", "recall", "f1", "roc_auc", "average_precision")),
        "count": 0,
    }
    assert c["specificity"] == 1
    # Of a: ranked 2 (yes), 1 (no), -1 (yes), -3 (no): (1 + 2 / 3) / 2.
    assert found["map"] == found["macro"]["average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["macro"]["classes"] == 2
    assert found["macro"]["f1"] == 0.75
    assert found["micro"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75}
    # 1, 2 / 3, 1 (none of none) and 2 / 3.
    assert found["samples"]["f1"] == pytest.approx((1 + 2 / 3 + 1 + 2 / 3) / 4)
    assert set(found["intervals"]) == {"subset_accuracy", "macro_f1", "map"}


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_scikit_learn(seed):
    labels, logits = draw(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = multilabel_metrics(labels, logits, intervals=False)
        decided, scores = logits >= 0, 1 / (1 + np.exp(-logits.astype(np.float64)))
        assert found["subset_accuracy"] == metrics.accuracy_score(labels, decided)
        assert found["hamming_loss"] == pytest.approx(metrics.hamming_loss(labels, decided))
        for average in ("micro", "samples"):
            for name, score in (
                ("precision", metrics.precision_score),
                ("recall", metrics.recall_score),
                ("f1", metrics.f1_score),
            ):
                expected = score(labels, decided, average=average, zero_division=1)
                assert found[average][name] == pytest.approx(expected)
        present = labels.any(0)
        assert found["macro"]["classes"] == present.sum()
        for name, score in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            expected = score(labels, decided, average=None, zero_division=0)
            assert found["macro"][name] == pytest.approx(expected[present].mean())
            for c in np.flatnonzero(present):
                assert found["per_class"][str(c)][name] == pytest.approx(expected[c])
        some = present & ~labels.all(0)
        expected = [metrics.average_precision_score(labels[:, c], scores[:, c]) for c in np.flatnonzero(some)]
        assert found["map"] == pytest.approx(np.mean(expected)) == mean_average_precision(labels, logits)
        expected = [metrics.roc_auc_score(labels[:, c], scores[:, c]) for c in np.flatnonzero(some)]
        assert found["macro"]["roc_auc"] == pytest.approx(np.mean(expected))
        assert found["lrap"] == metrics.label_ranking_average_precision_score(labels, scores)
        assert found["coverage_error"] == metrics.coverage_error(labels, scores)
        losses = [metrics.log_loss(labels[:, c], scores[:, c], labels=[0, 1]) for c in range(5)]
        assert found["log_loss"] == pytest.approx(sum(losses))
        matrices = metrics.multilabel_confusion_matrix(labels, decided)
        for c, ((tn, fp), _) in enumerate(matrices):
            specificity = found["per_class"][str(c)]["specificity"]
            assert specificity == (pytest.approx(tn / (tn + fp)) if tn + fp else None)


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_have_the_highest_f1_of_all(seed):
    labels, logits = draw(seed)
    thresholds = choose_thresholds(labels, logits)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert thresholds[-1] == 0.5
    for c in range(4):
        found = metrics.f1_score(labels[:, c], scores[:, c] >= thresholds[c])
        every = [metrics.f1_score(labels[:, c], scores[:, c] >= cut) for cut in np.unique(scores[:, c])]
        assert found == pytest.approx(max(every))
        assert not np.isclose(scores[:, c], thresholds[c], atol=1e-9).any()


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    labels = np.uint8([[1], [1], [0]])
    assert choose_thresholds(labels, np.log(np.float64([[3], [1.5], [0.25]])))[0] == 0.5
    # Between 0.75 and 0.6, since the highest alone is right.
    assert choose_thresholds(labels[[0, 2, 2]], np.log(np.float64([[3], [1.5], [0.25]])))[0] == pytest.approx(0.675)


def test_what_is_undefined():
    none = decision_metrics(np.zeros((2, 2)), np.zeros((2, 2)), ("a", "b"))
    assert (none["subset_accuracy"], none["hamming_loss"], none["macro"]["classes"]) == (1, 0, 0)
    assert none["micro"] == dict.fromkeys(("precision", "recall", "f1"))
    assert none["macro"]["f1"] is None
    assert none["samples"]["f1"] == 1
    assert mean_average_precision(np.ones((2, 2)), np.zeros((2, 2))) is None
    with pytest.raises(ValueError, match="labels of the shape"):
        multilabel_metrics(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not finite"):
        multilabel_metrics(np.zeros((1, 2)), np.array([[0, np.inf]]))


def test_log_losses_of_large_logits():
    assert log_losses(np.array([[1, 0]]), np.array([[-1000.0, 1000.0]])).tolist() == [2000]


def test_intervals_hold_the_metrics_and_the_order_of_images_changes_nothing():
    labels, logits = draw(1, images=40)
    labels, decided = labels > 0, logits >= 0
    found = multilabel_intervals(labels, logits, decided, resamples=100)
    order = np.random.default_rng(0).permutation(40)
    assert multilabel_intervals(labels[order], logits[order], decided[order], resamples=100) == found
    of_all = multilabel_metrics(labels, logits, intervals=False)
    for name, value in (("map", of_all["map"]), ("macro_f1", of_all["macro"]["f1"])):
        assert found[name][0] < value < found[name][1]


def test_each_resample_is_measured_as_scikit_learn_does():
    labels, logits = draw(2, images=12, number=3)
    labels, decided = labels > 0, logits >= 0
    order = np.lexsort((labels.sum(1), decided.sum(1), np.where(labels, logits, 0).sum(1), logits.sum(1)))
    labels, logits, decided = labels[order], logits[order], decided[order]
    index = np.random.default_rng(0).integers(0, 12, (1, 12))[0]
    drawn, found = labels[index], multilabel_intervals(labels, logits, decided, resamples=1)
    there = np.flatnonzero(drawn.any(0))
    assert found["subset_accuracy"] == [round(metrics.accuracy_score(drawn, decided[index]), 6)] * 2
    f1 = metrics.f1_score(drawn, decided[index], average=None, zero_division=0)[there].mean()
    assert found["macro_f1"] == pytest.approx([f1] * 2, abs=1e-6)
    precisions = [metrics.average_precision_score(drawn[:, c], logits[index, c]) for c in there]
    assert found["map"] == pytest.approx([np.mean(precisions)] * 2, abs=1e-6)
