import numpy as np
import pytest

from jaxtl.evaluate.alignment import Aligned
from jaxtl.evaluate.details import judge
from jaxtl.evaluate.paired import Difference
from jaxtl.experiment.comparing import Comparison, Paired, pair
from jaxtl.experiment.verdicts import better, gains, verdicts


def compared(accuracy, p, loss=None, of_loss=1.0, *, several=False):
    """Returns how b differs from a: value and interval of the accuracy and of the log loss, and p-values by Holm."""
    found = {"accuracy": Difference(*accuracy)} | ({"log_loss": Difference(*loss)} if loss else {})
    paired = Paired(None, "a", {"b": found} | ({"c": found} if several else {}), {},
                    {"b": p, "c": p}, {"b": (of_loss / 2, of_loss), "c": (of_loss / 2, of_loss)})  # fmt: skip
    return Comparison([], "test", {}, paired, {}, [])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (compared((0.125, [0.05, 0.2]), 0.0123),
         "b is better than a by 12.5 points (5.0 to 20.0), McNemar's p = 0.012."),
        (compared((-0.125, [-0.2, -0.05]), 0.0123),
         "a is better than b by 12.5 points (5.0 to 20.0), McNemar's p = 0.012."),
        (compared((0.0, [0.0, 0.0]), 1.0),
         "No difference can be told between a and b: accuracy +0.0 points (+0.0 to +0.0), McNemar's p = 1."),
        (compared((0.025, [0.0, 0.05]), 0.11, (-0.25, [-0.5, -0.125]), 0.02),
         "No difference of accuracies can be told between a and b: accuracy +2.5 points (+0.0 to +5.0), McNemar's p = "
         "0.11; the log loss of b is lower by 0.2500 (0.1250 to 0.5000), paired t-test's p = 0.02."),
        (compared((0.125, [0.05, 0.2]), 0.0, (0.25, [0.125, 0.5]), 0.02),
         "b is better than a by 12.5 points (5.0 to 20.0), McNemar's p < 1e-12; the log loss of b is higher by "
         "0.2500 (0.1250 to 0.5000), paired t-test's p = 0.02."),
        (compared((0.0, [0.0, 0.0]), 1.0, (0.25, [-0.125, 0.5]), 0.2, several=True),
         "No difference can be told between a and b: accuracy +0.0 points (+0.0 to +0.0), McNemar's p = 1 by Holm; log "
         "loss +0.2500 (-0.1250 to +0.5000), paired t-test's p = 0.2 by Holm."),
    ],
)  # fmt: skip
def test_a_verdict_is_a_sentence(found, expected):
    assert verdicts(found)[0] == expected


@pytest.mark.parametrize(
    ("accuracy", "p", "loss", "of_loss", "word"),
    [
        (0.02, 0.01, -0.1, 0.2, "gain"),
        (0.02, 0.2, -0.1, 0.01, "gain"),
        (0.02, 0.2, -0.1, 0.2, "no gain"),
        (-0.02, 0.01, -0.1, 0.2, "no gain"),
        (-0.02, 0.01, -0.1, 0.01, "mixed"),
    ],
)
def test_a_gain_is_a_difference_that_its_p_value_shows(accuracy, p, loss, of_loss, word):
    (said,) = gains(compared((accuracy, [0.001, 0.05]), p, (loss, [-0.2, -0.01]), of_loss), ["b"])
    assert said[:10].rstrip() == word


def test_an_interval_of_one_comparison_is_no_gain_where_holm_says_otherwise():
    found = compared((0.038, [0.004, 0.071]), 0.11, (-0.048, [-0.108, -0.001]), 0.21, several=True)
    assert gains(found, ["b"]) == [
        "no gain   b against a on test: accuracy +3.8 points (+0.4 to +7.1), Holm's p = 0.11, no gain shown; log loss "
        "-0.0480 (-0.1080 to -0.0010), Holm's p = 0.21, no gain shown"
    ]
    assert verdicts(found)[0].startswith("No difference can be told between a and b: accuracy +3.8 points")


def test_each_further_run_makes_a_gain_harder_to_show():
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    logits = rng.normal(size=(60, 3))
    other = logits + 0.3 * np.eye(3)[labels] + 0.5 * rng.normal(size=(60, 3))
    judged = {name: judge(labels, np.float32(each)) for name, each in (("a", logits), ("b", other))}
    more = {str(i): judge(labels, np.float32(logits + 0.1 * rng.normal(size=(60, 3)))) for i in range(12)}
    names = [str(i) for i in range(60)]
    alone, among = (
        pair(Aligned(("x", "y", "z"), names, each, dict.fromkeys(each, 0))) for each in (judged, judged | more)
    )
    assert alone.of_loss["b"][0] == alone.of_loss["b"][1] == among.of_loss["b"][0] < among.of_loss["b"][1]
    assert (better(alone, "b", "log_loss"), better(among, "b", "log_loss")) == (1, 0)
