import numpy as np
import pytest

from jaxtl.evaluate.bootstrap import METRICS, Judged, bootstrap_intervals
from jaxtl.evaluate.details import detailed_metrics, judge
from jaxtl.evaluate.paired import (
    holm,
    mcnemar,
    only_right,
    paired_differences,
    paired_t_test,
    plain_metrics,
    recalls,
)


def table(both, only_first, only_second, neither):
    """Returns which images each of two models has right, so many of each kind."""
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def judged_of(correct, seed=0):
    """Returns what a model of two classes said that has these images right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(len(correct)) % 2
    confidences = rng.uniform(0.5, 1, len(correct))
    losses = -np.log(np.where(correct, confidences, 1 - confidences))
    return Judged(labels, np.where(correct, labels, 1 - labels), losses, confidences, 2)


# The table of the approval ratings in Agresti, Categorical Data Analysis, and some with few discordant pairs.
@pytest.mark.parametrize("counts", [(794, 150, 86, 570), (10, 1, 9, 0), (5, 6, 6, 5), (0, 25, 8, 0), (3, 4, 0, 2)])
def test_mcnemar_is_scipys_binomial_test(counts):
    from scipy.stats import binomtest

    found = mcnemar(*table(*counts))
    assert (found.only_first, found.only_second) == counts[1:3]
    assert found.p == pytest.approx(binomtest(counts[1], counts[1] + counts[2]).pvalue, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.5])
def test_the_paired_t_test_is_scipys(shift):
    from scipy.stats import ttest_rel

    first, second = np.random.default_rng(0).exponential(size=(2, 40))
    assert paired_t_test(first, second + shift) == pytest.approx(ttest_rel(first, second + shift).pvalue, rel=1e-9)


def test_models_that_say_the_same_or_of_one_image_cannot_be_told_apart():
    losses = np.array([0.5, 0.25, 0.125])
    assert paired_t_test(losses, losses) == 1
    assert paired_t_test(losses[:1], losses[:1] + 1) == 1
    assert paired_t_test(losses, losses + 0.5) == 0


def test_mcnemar_of_literal_values():
    # As statsmodels.stats.contingency_tables.mcnemar(exact=True) gives them in its tests and documentation.
    assert mcnemar(*table(101, 59, 121, 33)).p == pytest.approx(4.434e-06, rel=1e-3)
    assert mcnemar(*table(0, 10, 0, 0)).p == 2**-9
    assert mcnemar(*table(7, 0, 0, 7)).p == 1


def test_mcnemar_of_many_images_is_about_the_normal_approximation():
    from scipy.stats import chi2

    expected = chi2.sf((abs(5200 - 5000) - 1) ** 2 / 10_200, 1)
    assert mcnemar(*table(0, 5200, 5000, 0)).p == pytest.approx(expected, rel=1e-2)


def test_holm_by_hand():
    assert holm([0.02, 0.5, 0.01]) == pytest.approx([0.04, 0.5, 0.03])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


def test_a_model_against_itself_differs_by_nothing():
    judged = judged_of(np.arange(50) % 4 > 0)
    (found,) = paired_differences([judged, judged])
    assert tuple(found) == METRICS
    assert all((each.value, each.interval) == (0, [0, 0]) for each in found.values())
    assert mcnemar(judged.correct, judged.correct).p == 1


def test_differences_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    logits = rng.normal(size=(2, 60, 4)) + 2 * np.eye(4)[labels]
    first, second = (detailed_metrics(labels, each) for each in logits)
    (found,) = paired_differences([judge(labels, each) for each in logits], resamples=10)
    plain = plain_metrics(judge(labels, logits[0]))
    first, second = ({**each, "macro_f1": each["macro"]["f1"]} for each in (first, second))
    for name in METRICS:
        assert found[name].value == pytest.approx(second[name] - first[name], abs=1e-12)
        assert plain[name] == pytest.approx(first[name])


def test_the_interval_of_accuracies_is_about_that_of_the_normal_approximation():
    first, second = table(600, 120, 60, 220)
    (found,) = paired_differences([judged_of(first), judged_of(second, 1)])
    value, spread = -0.06, np.sqrt((120 + 60) / 1000 - 0.06**2) / np.sqrt(1000)
    assert found["accuracy"].value == pytest.approx(value)
    assert found["accuracy"].interval == pytest.approx([value - 1.96 * spread, value + 1.96 * spread], abs=4e-3)
    # What both have right or wrong together cancels out: each alone is less certain.
    low, high = bootstrap_intervals(judged_of(first))["accuracy"]
    assert high - low > found["accuracy"].interval[1] - found["accuracy"].interval[0]


def test_each_of_several_models_is_compared_with_the_first():
    models = [judged_of(np.arange(40) % k > 0, k) for k in (2, 3, 4)]
    both = paired_differences(models, resamples=50)
    assert both == [paired_differences([models[0], other], resamples=50)[0] for other in models[1:]]


@pytest.mark.slow
def test_intervals_hold_the_true_difference_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    times, count = 400, 200
    held = {"accuracy": 0, "log_loss": 0}

    # Logits of two models around those of a truth, the second with more noise; 400,000 images tell the true difference.
    def draw(images):
        labels = rng.integers(0, 3, images)
        hardness = rng.normal(size=(images, 3))
        good, worse = (1.5 * np.eye(3)[labels] + hardness + k * rng.normal(size=(images, 3)) for k in (0.5, 1.0))
        return [judge(labels, good), judge(labels, worse)]

    first, second = (plain_metrics(each) for each in draw(400_000))
    for seed in range(times):
        (found,) = paired_differences(draw(count), resamples=500, seed=seed)
        for name in held:
            low, high = found[name].interval
            held[name] += low <= second[name] - first[name] <= high
    # Of 400 cases at 95 %, the standard deviation is 1.1 points.
    assert all(0.91 <= hits / times <= 0.98 for hits in held.values()), held


def test_recalls_are_undefined_without_images():
    judged = Judged(np.array([0, 0, 2]), np.array([0, 2, 2]), np.zeros(3), np.ones(3), 3)
    np.testing.assert_array_equal(recalls(judged), [0.5, np.nan, 1])


def test_the_surest_mistakes_come_first():
    right = judged_of(np.array([True, True, True, False]))
    wrong = Judged(right.labels, 1 - right.labels, right.log_losses, np.array([0.6, 0.9, 0.6, 1.0]), 2)
    assert only_right(right, wrong).tolist() == [1, 0, 2]


@pytest.mark.parametrize("logits", [np.array([0.5, -2.0, 3.0]), np.array([[0.5], [-2.0], [3.0]])])
def test_one_logit_is_judged_as_two_classes(logits):
    found = judge(np.array([1, 1, 0]), logits)
    assert found.predicted.tolist() == [1, 0, 1]
    assert found.confidences == pytest.approx(1 / (1 + np.exp(-np.abs(logits.ravel()))))
    assert found.log_losses == pytest.approx(np.log1p(np.exp([-0.5, 2.0, 3.0])))
    assert found.classes == 2
