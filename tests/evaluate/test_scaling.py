"""Temperature and vector scaling: by hand, beside a grid and scikit-learn, and what must hold of any logits."""

import numpy as np
import pytest

from jaxtl.evaluate.details import detailed_metrics
from jaxtl.evaluate.predictions import as_half
from jaxtl.evaluate.scaling import HIGHEST, LOWEST, Scaling, fit, fit_temperature, fit_vector_scaling, quality


def draw(count=400, classes=4, *, sharper=1.0, sigmoid=False, seed=0):
    """Draws logits, and labels as often as the logits say; the logits are then multiplied by `sharper`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    weights = 1 / (1 + np.exp(-logits)) if sigmoid else np.exp(logits)
    shares = weights / weights.sum(1, keepdims=True)
    labels = (rng.uniform(size=(count, 1)) > shares.cumsum(1)).sum(1).clip(max=classes - 1)
    return labels, sharper * logits


def log_loss(labels, logits, sigmoid=False, random=None):
    """The log loss of labels of which a share is at random, by default 0.5 / (N + 1)."""
    random = 0.5 / (len(labels) + 1) if random is None else random
    targets = (1 - random) * np.eye(logits.shape[1])[labels] + random / logits.shape[1]
    total = np.log1p(np.exp(logits)).sum(1) if sigmoid else np.log(np.exp(logits).sum(1))
    return np.mean(total - (targets * logits).sum(1))


def test_by_hand():
    # Four images of two classes, three right, all with the margin 2; a tenth of each label is at random, so
    # sigmoid(2 / T) is 9/10 * 3/4 + 1/10 * 1/2 = 29/40, where 2 / T is log(29 / 11).
    logits = np.array([[2.0, 0.0]] * 4)
    assert fit_temperature(np.array([0, 0, 0, 1]), logits).temperature == pytest.approx(2 / np.log(29 / 11))


def test_one_near_tie_does_not_drive_it_to_a_bound():
    labels = np.arange(73) % 3
    logits = 4.0 * np.eye(3)[labels]
    logits[0] = [7.0, 7.004, 0.0]
    # By the labels alone the best T would be below 0.05.
    found = fit_temperature(labels, logits)
    assert (found.note, round(found.temperature, 2)) == ("", 0.66)
    vector = fit_vector_scaling(labels, logits)
    assert vector.note == ""
    assert max(vector.scale) < 2


@pytest.mark.parametrize("count", [400, 2000])
def test_ordinary_fits_are_near_the_unregularised_optimum(count):
    from scipy.optimize import minimize_scalar

    for seed in range(5):
        labels, logits = draw(count, sharper=1.7, seed=seed)
        plain = minimize_scalar(lambda t: log_loss(labels, logits / t, random=0.0), bounds=(0.2, 10), method="bounded")  # noqa: B023
        assert fit_temperature(labels, logits).temperature == pytest.approx(plain.x, rel=5 / count)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_beside_a_grid(sigmoid):
    labels, logits = draw(sharper=1.7, sigmoid=sigmoid)
    grid = np.exp(np.linspace(-1, 2.5, 2001))
    best = grid[np.argmin([log_loss(labels, logits / t, sigmoid) for t in grid])]
    assert fit_temperature(labels, logits, sigmoid=sigmoid).temperature == pytest.approx(best, rel=2e-3)


@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept sample_weight")
def test_beside_scikit_learn():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = rng.normal(size=(300, 5)) + 0.7 * np.eye(5)[labels]
    # Hardly penalised and of few images: too sure of itself.
    model = LogisticRegression(C=1e3).fit(features[:30], labels[:30])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", ensemble=False)
    # An image of each class for each image, weighted as likely as its label is that class.
    shares = (1 - 0.5 / 271) * np.eye(3)[labels[30:]] + 0.5 / 271 / 3
    theirs.fit(features[30:].repeat(3, axis=0), np.tile(np.arange(3), 270), sample_weight=shares.ravel())
    logits = model.decision_function(features[30:])
    found = fit_temperature(labels[30:], logits)
    beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
    assert found.temperature > 1.5
    assert found.temperature == pytest.approx(1 / beta, rel=1e-4)
    probabilities = theirs.predict_proba(features[30:])
    scaled = np.exp(found.apply(logits))
    np.testing.assert_allclose(scaled / scaled.sum(1, keepdims=True), probabilities, atol=1e-4)


@pytest.mark.parametrize("factor", [0.25, 3.0])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_logits_that_are_sharper_by_a_factor_have_a_temperature_higher_by_it(factor, sigmoid):
    labels, logits = draw(sigmoid=sigmoid)
    own = fit_temperature(labels, logits, sigmoid=sigmoid).temperature
    assert fit_temperature(labels, factor * logits, sigmoid=sigmoid).temperature == pytest.approx(factor * own)


def test_the_factor_is_found_again_in_logits_that_were_calibrated():
    labels, logits = draw(20_000, sharper=1.5, seed=1)
    assert fit_temperature(labels, logits).temperature == pytest.approx(1.5, rel=0.02)
    vector = fit_vector_scaling(labels, logits)
    np.testing.assert_allclose(vector.scale, 1 / 1.5, rtol=0.05)
    np.testing.assert_allclose(vector.bias, 0, atol=0.06)


def test_a_temperature_never_changes_what_is_predicted():
    labels, logits = draw(200, sharper=8)
    half = as_half(logits.astype(np.float32))
    found = fit_temperature(labels, half)
    assert (found.apply(half).argmax(1) == half.argmax(1)).all()
    before, after = (quality(labels, half, scaling, sigmoid=False) for scaling in (None, found))
    assert after.accuracy == before.accuracy
    assert after.log_loss < before.log_loss
    assert after.ece < before.ece / 2


def test_where_every_image_is_right_it_stays_1():
    labels = np.arange(6) % 3
    found = fit_temperature(labels, 4.0 * np.eye(3)[labels])
    assert (found.temperature, found.note) == (1, "every image is right, whatever the temperature: it stays 1")
    assert fit_temperature(labels, np.zeros((6, 3))).temperature == 1
    yes = np.where(np.eye(3)[labels] > 0, 1.0, -1.0)
    assert fit_temperature(labels, yes, sigmoid=True).note
    yes[0, 1] = 0.5  # The highest is the right one still, but another class is said to be there too.
    assert not fit_temperature(labels, yes, sigmoid=True).note
    # Vector scaling keeps near that, whatever the logits would gain.
    vector = fit_vector_scaling(labels, 4.0 * np.eye(3)[labels])
    assert all(0.9 < scale < 1.2 for scale in vector.scale)


def test_beyond_the_bounds_it_stays_1():
    labels = np.array([0] * 99 + [1])
    logits = np.array([[1e-2, 0.0]] * 99 + [[1e-9, 0.0]])
    cold = fit_temperature(labels, logits)
    below = "the best would be below 0.05, the lowest temperature that is tried: it stays 1"
    assert (LOWEST, cold.temperature, cold.note) == (0.05, 1, below)
    hot = fit_temperature(1 - labels, logits)  # Worse than chance.
    above = "the best would be above 20, the highest temperature that is tried: it stays 1"
    assert (HIGHEST, hot.temperature, hot.note) == (20, 1, above)
    assert fit_vector_scaling(1 - labels, logits).note == above


def test_a_scale_at_its_bound_is_noted():
    labels, logits = draw(3000, classes=3)
    logits[:, 2] = -logits[:, 2]  # It says the opposite of what it should.
    assert fit_vector_scaling(labels, logits).note == "1 of 3 scales are the lowest that is tried"


def test_what_kept_vector_scaling_from_its_minimum_is_noted(monkeypatch):
    labels, logits = draw(60)
    assert fit_vector_scaling(labels, logits).note == ""
    right = np.arange(6) % 3
    never = "every image is right, whatever the temperature: it stays 1"
    assert fit_vector_scaling(right, 4.0 * np.eye(3)[right]).note == never
    monkeypatch.setattr("jaxtl.evaluate.scaling._STEPS", 1)
    stopped = "L-BFGS stopped after 1 steps, before it had converged"
    assert fit_vector_scaling(labels, logits).note == stopped
    assert fit_vector_scaling(right, 4.0 * np.eye(3)[right]).note in (never, f"{never}; {stopped}")


def test_one_logit_is_two():
    labels, logits = draw(classes=2)
    one = logits[:, 1] - logits[:, 0]
    expected = fit_temperature(labels, logits).temperature
    assert fit_temperature(labels, one).temperature == pytest.approx(expected)
    assert fit_temperature(labels, one[:, None]).temperature == pytest.approx(expected)
    padded = np.stack([np.zeros_like(one), one], 1)
    vector = fit_vector_scaling(labels, padded)
    assert len(vector.scale) == 2
    assert quality(labels, padded, vector, sigmoid=False).log_loss <= quality(labels, padded, sigmoid=False).log_loss


@pytest.mark.parametrize("sigmoid", [False, True])
def test_vector_scaling_is_the_minimum_of_its_loss(sigmoid):
    labels, logits = draw(classes=3, sigmoid=sigmoid)
    logits = logits * [1, 2, 3] + [0.5, -0.5, 0]
    found = fit_vector_scaling(labels, logits, sigmoid=sigmoid)
    scale, bias = np.array(found.scale), np.array(found.bias)
    inverse = 1 / found.temperature

    def posterior(scale, bias):
        prior = ((scale / inverse - 1) ** 2).sum() / 0.2**2 + (bias**2).sum() / 0.3**2
        return log_loss(labels, logits * scale + bias, sigmoid) + prior / 2 / len(labels)

    least = posterior(scale, bias)
    for step in np.eye(3):
        for sign in (-1, 1):
            assert posterior(scale + sign * 0.01 * step, bias) > least
            assert posterior(scale, bias + sign * 0.01 * step) > least
    # It beats the temperature by what the classes differ in.
    temperature = quality(labels, logits, fit_temperature(labels, logits, sigmoid=sigmoid), sigmoid=sigmoid)
    assert quality(labels, logits, found, sigmoid=sigmoid).log_loss < temperature.log_loss - 0.01
    assert sigmoid or abs(bias.sum()) < 1e-12


def test_vector_scaling_of_few_images_keeps_near_the_temperature():
    labels, logits = draw(24, classes=12, seed=2)
    found, plain = fit_vector_scaling(labels, logits), fit_temperature(labels, logits)
    ratio = np.array(found.scale) * plain.temperature
    assert ratio.min() > 0.6
    assert ratio.max() < 1.4
    # On other images of the same kind it does hardly worse, though it has 24 numbers of 24 images.
    others = draw(5000, classes=12, seed=3)
    losses = [quality(*others, scaling, sigmoid=False).log_loss for scaling in (found, plain)]
    assert losses[0] < losses[1] + 0.05


def test_quality_is_that_of_the_report():
    labels, logits = draw(120)
    for sigmoid in (False, True):
        found, report = quality(labels, logits, sigmoid=sigmoid), detailed_metrics(labels, logits, sigmoid=sigmoid)
        assert found.summary() == {key: report[key] for key in ("accuracy", "log_loss", "brier", "ece")}
        bins = found.reliability
        gaps = np.abs(np.nan_to_num(bins.accuracy - bins.confidence)) * bins.counts
        assert gaps.sum() / 120 == pytest.approx(found.ece)
    assert found.reliability.to_json()["accuracy"].count(None) == (bins.counts == 0).sum()


def test_chunks_change_nothing(monkeypatch):
    labels, logits = draw(50)
    whole = fit("temperature", labels, logits), fit("vector", labels, logits)
    monkeypatch.setattr("jaxtl.evaluate.scaling._CHUNK", 28)
    assert fit("temperature", labels, logits).temperature == pytest.approx(whole[0].temperature, rel=1e-9)
    np.testing.assert_allclose(fit("vector", labels, logits).scale, whole[1].scale, rtol=1e-5)


def test_plain_values_and_back():
    for scaling in (Scaling(1.25, note="so"), Scaling(2.0, (0.5, 0.25), (0.125, -0.125))):
        assert Scaling.from_json(scaling.to_json()) == scaling
    good = Scaling(2.0, (0.5,), (0.0,)).to_json()
    for bad in ({**good, "bias": []}, {**good, "method": "temperature"}, {**good, "temperature": -1.0}):
        with pytest.raises(ValueError, match="no temperature"):
            Scaling.from_json(bad)


def test_what_is_no_set_of_predictions_is_refused():
    with pytest.raises(ValueError, match="0 labels"):
        fit_temperature(np.zeros(0, int), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="2 labels and logits of the shape"):
        fit_vector_scaling(np.zeros(2, int), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(np.zeros(2, int), np.full((2, 3), np.inf))
