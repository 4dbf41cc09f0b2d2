"""The metrics of a thorough report, beside scikit-learn and by hand."""

import json
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from jaxtl.evaluate import details as module
from jaxtl.evaluate.details import detailed_metrics, probabilities_of


def draw(seed, count=60, number=4, *, without=(), ties=False):
    """Returns labels [N] and logits [N, C], float32, that know a little."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(number) if c not in without], count)
    logits = rng.normal(size=(count, number)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return labels, np.round(logits) if ties else logits


def softmax(logits):
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(1, keepdims=True)


CASES = {
    "four classes": {},
    "two classes": {"number": 2},
    "two of five classes have no images": {"number": 5, "without": (0, 3)},
    "equal logits": {"ties": True},
    "few images": {"count": 6, "number": 8, "without": (7,)},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_scikit_learn(case, seed):
    labels, logits = draw(seed, **CASES[case])
    found = detailed_metrics(labels, logits)
    number, predicted = logits.shape[1], logits.argmax(1)
    # Rounded otherwise, equal probabilities would be equal no more.
    p = probabilities_of(labels, logits, sigmoid=False)[0]
    np.testing.assert_allclose(p, softmax(logits), rtol=1e-12)
    there = sorted(set(labels.tolist()))
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "kappa": sk.cohen_kappa_score(labels, predicted),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "log_loss": sk.log_loss(labels, p, labels=range(number)),
        "brier": sk.brier_score_loss(labels, p, labels=range(number), scale_by_half=False),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of classes that are predicted and have no images.
        expected["balanced_accuracy"] = sk.balanced_accuracy_score(labels, predicted)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    assert found["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=range(number)).tolist()
    for average in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(labels, predicted, labels=there, average=average, zero_division=0)
        assert [found[average][key] for key in ("precision", "recall", "f1")] == pytest.approx(values[:3])
    assert found["macro"]["classes"] == len(there)
    own = {c: {"roc_auc": sk.roc_auc_score(labels == c, p[:, c])} for c in there}
    for c in there:
        own[c]["average_precision"] = sk.average_precision_score(labels == c, p[:, c])
        own[c]["specificity"] = sk.recall_score(labels != c, predicted != c)
        own[c]["precision"] = sk.precision_score(labels == c, predicted == c, zero_division=0)
        own[c]["recall"] = sk.recall_score(labels == c, predicted == c)
        own[c]["f1"] = sk.f1_score(labels == c, predicted == c)
        assert found["per_class"][str(c)] == pytest.approx({**own[c], "count": int((labels == c).sum())})
    for key in ("roc_auc", "average_precision", "specificity"):
        assert found["macro"][key] == pytest.approx(np.mean([own[c][key] for c in there]))
    if case != "equal logits" and number > 2:
        for k, share in found["top_k"].items():
            assert share == pytest.approx(sk.top_k_accuracy_score(labels, p, k=int(k), labels=range(number)))


def test_values_by_hand():
    # Probabilities 3/4 and 1/4 for each image; the third is wrong, and all are said to be of the first class.
    found = detailed_metrics(np.array([0, 0, 1]), np.log([[3.0, 1, 1e-30]] * 3), ("a", "b", "c"))
    assert found["per_class"]["a"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(4 / 5),
        "specificity": 0.0,
        "roc_auc": 0.5,
        "average_precision": pytest.approx(2 / 3),
        "count": 2,
    }
    # It has images, and is never predicted: it counts 0.
    assert (found["per_class"]["b"]["precision"], found["per_class"]["b"]["specificity"]) == (0.0, 1.0)
    of_none = dict.fromkeys(("precision", "recall", "f1", "roc_auc", "average_precision"))
    assert found["per_class"]["c"] == {**of_none, "specificity": 1.0, "count": 0}
    assert found["macro"] == {
        "classes": 2,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "f1": pytest.approx(2 / 5),
        "specificity": 0.5,
        "roc_auc": 0.5,
        "average_precision": pytest.approx((2 / 3 + 1 / 3) / 2),
    }
    assert found["weighted"]["precision"] == pytest.approx(4 / 9)
    assert found["top_k"] == {"1": pytest.approx(2 / 3), "2": 1.0}
    assert found["log_loss"] == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3)
    assert found["brier"] == pytest.approx((2 * (1 / 16 + 1 / 16) + 9 / 16 + 9 / 16) / 3)
    # All have confidence 3/4, and two of three are right.
    assert (found["ece"], found["adaptive_ece"]) == (pytest.approx(3 / 4 - 2 / 3), pytest.approx((0.5 + 0.75) / 3))
    assert (found["kappa"], found["mcc"]) == (0.0, 0.0)
    json.dumps(found, allow_nan=False)


def test_a_class_without_images_that_is_predicted_has_a_precision():
    found = detailed_metrics(np.array([0, 1]), np.float32([[1, 0, 0], [0, 0, 1]]))
    of_it = found["per_class"]["2"]
    assert (of_it["precision"], of_it["recall"], of_it["f1"], of_it["specificity"]) == (0.0, None, None, 0.5)
    assert found["macro"]["classes"] == 2


def test_of_one_class_alone_what_compares_classes_is_undefined():
    found = detailed_metrics(np.array([1, 1]), np.float32([[1, 0], [0, 1]]))
    assert (found["kappa"], found["mcc"], found["accuracy"], found["balanced_accuracy"]) == (None, None, 0.5, 0.5)
    macro = found["macro"]
    assert (macro["classes"], macro["roc_auc"], macro["average_precision"], macro["specificity"]) == (1, *[None] * 3)
    json.dumps(found, allow_nan=False)
    json.dumps(detailed_metrics(np.array([0]), np.float32([[1, 0]])), allow_nan=False)


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_one_logit_is_that_of_the_second_of_two_classes(shape):
    labels, logits = draw(0, number=2)
    one = logits[:, 1] - logits[:, 0]
    found, expected = detailed_metrics(labels, one.reshape(shape)), detailed_metrics(labels, logits)
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, 1 / (1 + np.exp(-one.astype(np.float64)))))
    assert found["per_class"]["1"] == pytest.approx(expected["per_class"]["1"])


def test_of_sigmoids_each_class_has_a_probability_of_its_own():
    labels, logits = np.array([0, 1]), np.log([[3.0, 1], [1, 1]])
    probabilities, losses = probabilities_of(labels, logits, sigmoid=True)
    np.testing.assert_allclose(probabilities, [[3 / 4, 1 / 2], [1 / 2, 1 / 2]])
    # The first is right and not the other, the second the other way round.
    np.testing.assert_allclose(losses, [-math.log(3 / 4 * 1 / 2), -math.log(1 / 2 * 1 / 2)])
    found = detailed_metrics(labels, logits, sigmoid=True)
    assert found["brier"] == pytest.approx((1 / 16 + 1 / 4 + 1 / 4 + 1 / 4) / 2)


def test_large_logits_neither_overflow_nor_are_cut():
    found = detailed_metrics(np.array([0, 1]), np.float32([[-1000, 1000], [-1000, 1000]]))
    assert found["log_loss"] == pytest.approx(1000)
    assert probabilities_of(np.array([0]), np.float32([[-1000, 1000]]), sigmoid=True)[1].tolist() == [2000.0]


@pytest.mark.parametrize("ties", [False, True])
def test_the_order_of_the_images_changes_nothing(ties):
    labels, logits = draw(3, count=50, without=(2,), ties=ties)
    order = np.random.default_rng(0).permutation(50)
    one, two = detailed_metrics(labels, logits), detailed_metrics(labels[order], logits[order])
    assert one["intervals"] == two["intervals"]
    assert one["confusion_matrix"] == two["confusion_matrix"]
    for part in (lambda found: {k: v for k, v in found.items() if isinstance(v, float)}, lambda found: found["macro"]):
        assert part(one) == pytest.approx(part(two), rel=1e-12)


def test_of_many_classes_no_matrix_is_made(monkeypatch):
    monkeypatch.setattr(module, "MAX_CONFUSION_CLASSES", 3)
    found = detailed_metrics(*draw(0))
    assert (found["kappa"], found["mcc"], "confusion_matrix" in found) == (None, None, False)


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([0, 1], [[1, 2]], "there are 2 labels"),
        ([], np.zeros((0, 2)), "there are 0 labels"),
        ([0], [[np.nan, 1]], "not finite"),
    ],
)
def test_what_fits_no_metric_is_refused(labels, logits, message):
    with pytest.raises(ValueError, match=message):
        detailed_metrics(np.array(labels, int), np.array(logits, np.float32))
