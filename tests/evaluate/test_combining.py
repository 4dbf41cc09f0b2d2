import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxtl.evaluate.combining import FITTED, WAYS, Combination, fit, fit_weights


def draw(models, images, classes, seed=0, skill=2.0):
    """Returns labels, and logits of models that know them the better the later they come."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    noise = rng.normal(size=(models, images, classes))
    return labels, noise + skill * np.arange(models)[:, None, None] / models * np.eye(classes)[labels]


def test_votes_count_first_and_probabilities_break_ties():
    logits = np.log([[[0.6, 0.3, 0.1]], [[0.5, 0.4, 0.1]], [[0.05, 0.05, 0.9]]])
    found = softmax(Combination("vote", (1 / 3,) * 3)(logits), -1)
    means = np.array([1.15, 0.75, 1.1]) / 3
    np.testing.assert_allclose(found, [(np.array([2, 0, 1]) + means) / 4], rtol=1e-5)
    tie = Combination("vote", (0.5, 0.5))(logits[1:])
    assert tie.argmax() == 2  # One vote each, and the third class has the higher mean.


def test_a_class_with_more_votes_wins_whatever_the_probabilities():
    for seed in range(30):
        _, logits = draw(5, 40, 4, seed)
        votes = (logits.argmax(-1)[..., None] == np.arange(4)).sum(0)
        found = Combination("vote", (0.2,) * 5)(logits)
        chosen = found.argmax(-1)
        np.testing.assert_array_equal(votes[np.arange(40), chosen], votes.max(-1))
        np.testing.assert_allclose(softmax(found, -1).sum(-1), 1, rtol=1e-6)


def test_the_mean_of_logits_is_the_geometric_mean_and_ignores_what_is_added_to_all_of_an_image():
    _, logits = draw(3, 20, 4)
    found = Combination("logits", (1 / 3,) * 3)(logits + np.arange(3)[:, None, None])
    np.testing.assert_allclose(softmax(found, -1), softmax(logits.mean(0), -1), rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_best_of_a_fine_grid(seed):
    labels, logits = draw(3, 60, 4, seed)
    weights = fit_weights(labels, logits)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    own = softmax(logits, -1)[:, np.arange(60), labels]
    losses = {
        (a, b): -np.log(a / 40 * own[0] + b / 40 * own[1] + (40 - a - b) / 40 * own[2]).mean()
        for a in range(41) for b in range(41 - a)
    }  # fmt: skip
    assert -np.log(np.array(weights) @ own).mean() <= min(losses.values()) + 1e-7


def test_a_model_that_never_helps_gets_no_weight():
    labels = np.arange(12) % 3
    good = np.eye(3)[labels] * 4
    weights = fit_weights(labels, np.stack([good, -good]))
    assert weights == pytest.approx((1, 0), abs=1e-6)


def test_a_sure_mistake_does_not_make_the_loss_endless():
    labels = np.array([0, 1])
    sure = np.array([[1000.0, 0.0], [1000.0, 0.0]])
    weights = fit_weights(labels, np.stack([sure, sure]))
    found = Combination("weighted", weights)(np.stack([sure, sure]))
    assert np.isfinite(found).all()
    assert sum(weights) == pytest.approx(1)


def test_stacking_of_few_images_is_no_worse_than_the_mean():
    """Shrunk towards zero instead of the mean, it has a log loss of 1.58 on other images here, the mean 1.15."""
    rng, labels = np.random.default_rng(0), np.arange(673) % 12
    what_all_see = 4 * np.eye(12)[labels] + 2 * rng.normal(size=(673, 12))
    logits = what_all_see + 0.5 * rng.normal(size=(3, 673, 12))
    losses = {
        by: log_loss(labels[73:], fit(by, labels[:73], logits[:, :73])(logits[:, 73:])) for by in ("logits", "stacking")
    }
    assert losses["stacking"] < 1.02 * losses["logits"]


def test_stacking_of_many_images_learns_what_the_mean_cannot():
    labels, logits = draw(2, 2000, 3)
    turned = np.stack([logits[0], logits[1][:, [1, 2, 0]]])  # The better model has its classes confused.
    found = {by: fit(by, labels[:1000], turned[:, :1000]) for by in ("logits", "stacking")}
    losses = {by: log_loss(labels[1000:], each(turned[:, 1000:])) for by, each in found.items()}
    assert losses["stacking"] < 0.9 * losses["logits"]
    assert found["stacking"].cross_validated == pytest.approx(losses["stacking"], rel=0.1)


@pytest.mark.parametrize("by", FITTED)
def test_the_loss_of_what_was_fitted_is_that_on_images_that_it_did_not_see(by):
    labels, logits = draw(6, 30 + 3000, 3)
    found = fit(by, labels[:30], logits[:, :30])
    assert log_loss(labels[:30], found(logits[:, :30])) < found.cross_validated
    assert fit("logits", labels, logits).cross_validated is None


def log_loss(labels, logits):
    return -log_softmax(logits, -1)[np.arange(len(labels)), labels].mean()


def test_stacking_wants_an_image_of_each_class():
    labels, logits = draw(2, 10, 3)
    with pytest.raises(ValueError, match="class 1 has no image"):
        fit("stacking", np.where(labels == 1, 0, labels), logits)


@pytest.mark.parametrize("by", WAYS)
def test_what_is_written_is_read_again(by):
    labels, logits = draw(2, 30, 3)
    found = fit(by, labels, logits)
    again = Combination.from_json(found.to_json())
    assert again == found
    np.testing.assert_array_equal(again(logits), found(logits))
    assert found(logits).dtype == np.float32
    # Images do not know of each other.
    np.testing.assert_allclose(found(logits[:, 4:5]), found(logits)[4:5], rtol=1e-6)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="'median' is none of vote"):
        Combination.from_json({"by": "median", "weights": [1]})
