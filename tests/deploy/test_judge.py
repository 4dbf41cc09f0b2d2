"""What is said of an image by its logits: literal values, rule by rule."""

import numpy as np
import pytest

from jaxtl.deploy.judge import Judge, LabelJudge
from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.predictions import as_half
from jaxtl.evaluate.scaling import Scaling

CLASSES = ("ant", "bee", "cat")
# Their softmax is (0.5, 0.3, 0.2).
LOGITS = np.log([5.0, 3.0, 2.0])


def test_by_default_the_likeliest_class_as_the_model_has_it():
    assert Judge(CLASSES)(LOGITS) == {
        "class": "ant",
        "probability": 0.5,
        "top5": [
            {"class": "ant", "probability": 0.5},
            {"class": "bee", "probability": 0.3},
            {"class": "cat", "probability": 0.2},
        ],
    }
    assert Judge(CLASSES, sigmoid=True)(np.log([1 / 3, 3.0, 1.0]))["top5"] == [
        {"class": "bee", "probability": 0.75},
        {"class": "cat", "probability": 0.5},
        {"class": "ant", "probability": 0.25},
    ]


def test_the_likeliest_of_sigmoids_that_are_rounded_to_1():
    assert Judge(CLASSES, sigmoid=True)(np.array([50.0, 60.0, 55.0]))["class"] == "bee"


def test_calibrated_probabilities_are_said_to_be():
    said = Judge(CLASSES, scaling=Scaling(0.5))(LOGITS)
    assert (said["class"], said["calibrated"]) == ("ant", True)
    assert said["probability"] == round(25 / 38, 6)
    vector = Judge(CLASSES, scaling=Scaling(1.0, (1.0,) * 3, (0.0, np.log(2), 0.0)))(LOGITS)
    assert (vector["class"], vector["probability"]) == ("bee", round(6 / 13, 6))


def test_an_image_of_no_class():
    assert Judge(CLASSES, reject_below=0.5)(LOGITS) == Judge(CLASSES)(LOGITS)
    said = Judge(CLASSES, reject_below=0.6)(LOGITS)
    assert said == {**Judge(CLASSES)(LOGITS), "class": None, "rejected": "its probability is below 0.6"}


def test_the_thresholds_of_classes():
    def judge(*cuts):
        rule = {"kind": "precision", "wanted": 0.95, "thresholds": dict(zip(CLASSES, cuts, strict=True))}
        return Judge(CLASSES, scaling=Scaling(1.0), rule=rule)(LOGITS)

    said = judge(0.499, 0.25, None)
    assert (said["class"], said["above"]) == ("ant", ["ant", "bee"])
    assert said["probability"] == pytest.approx(0.5, abs=1e-3)
    assert (said["calibrated"], said["operating_point"]) == (True, "precision 0.95")
    said = judge(0.6, 0.25, 0.1)  # The likeliest class is not sure enough, two others are.
    assert (said["class"], said["above"]) == ("bee", ["bee", "cat"])
    assert said["probability"] == pytest.approx(0.3, abs=1e-3)
    said = judge(0.6, 0.4, None)
    assert (said["class"], said["above"]) == (None, [])
    assert said["probability"] == pytest.approx(0.5, abs=1e-3)
    assert said["rejected"] == "no class reaches its threshold"


@pytest.mark.parametrize("sigmoid", [False, True])
def test_rejection_by_confidence_and_by_energy(sigmoid):
    for by, score in (("confidence", 5 / 6 if sigmoid else 0.5), ("energy", np.log(6 * 4 * 3 if sigmoid else 10))):
        for threshold, expected in ((score - 1e-2, "ant"), (score + 1e-2, None)):
            rule = {"kind": "accuracy", "wanted": 0.99, "by": by, "threshold": threshold}
            said = Judge(CLASSES, sigmoid, Scaling(1.0), rule=rule)(LOGITS)
            assert (said["class"], said["operating_point"]) == (expected, "accuracy 0.99")
            assert said.get("rejected") == (None if expected else f"its {by} is below {threshold:.4f}")
    # Energy is of the logits as they were trained, whatever makes the probabilities calibrated.
    assert Judge(CLASSES, sigmoid, Scaling(9.0), rule={**rule, "threshold": score - 1e-2})(LOGITS)["class"] == "ant"


def test_the_decision_that_costs_least():
    costs = [[0, 1, 1], [1, 0, 1], [9, 9, 0]]
    said = Judge(CLASSES, scaling=Scaling(1.0), rule={"kind": "costs", "costs": costs})(LOGITS)
    # ant: 0.3 + 1.8; bee: 0.5 + 1.8; cat: 0.5 + 0.3.
    assert said["class"] == "cat"
    assert (said["probability"], said["expected_cost"]) == pytest.approx((0.2, 0.8), abs=1e-3)
    assert said["operating_point"] == "least cost"
    assert said["top5"][0]["class"] == "ant"


def test_of_several_labels_all_that_reach_their_thresholds():
    # Sigmoids of 3/4, 1/2 and 1/4.
    said = LabelJudge(CLASSES, (0.8, 0.5, 0.2))(np.log([3.0, 1.0, 1 / 3]))
    assert said["labels"] == ["bee", "cat"]
    assert [entry["threshold"] for entry in said["top5"]] == [0.8, 0.5, 0.2]
    assert [each["probability"] for each in said["top5"]] == [0.75, 0.5, 0.25]
    assert LabelJudge(CLASSES, (0.9, 0.9, 0.9))(np.zeros(3))["labels"] == []


def test_a_rule_sees_logits_as_they_were_kept():
    logits = np.float32([0.0, 1.2499, 0.25])
    kept = as_half(logits[None])
    cut = float(to_probabilities(kept[0], sigmoid=False)[1])
    assert cut > to_probabilities(logits, sigmoid=False)[1]
    rule = {"kind": "recall", "wanted": 1.0, "thresholds": {"ant": None, "bee": cut, "cat": None}}
    assert Judge(CLASSES, scaling=Scaling(1.0), rule=rule)(logits)["above"] == ["bee"]
    # Without one, probabilities are those of the model.
    assert Judge(CLASSES)(logits)["probability"] == round(float(to_probabilities(logits, sigmoid=False)[1]), 6)


def test_probabilities_are_those_of_logits_that_were_not_rounded():
    logits = np.float32([0.12345678, 1.7654321, -0.7654321])
    rule = {"kind": "recall", "wanted": 0.9, "thresholds": dict.fromkeys(CLASSES, 0.1)}
    plain, by_rule = (Judge(CLASSES, scaling=Scaling(1.3), rule=each)(logits) for each in (None, rule))
    assert (plain["probability"], plain["top5"]) == (by_rule["probability"], by_rule["top5"])
