import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from jaxtl.evaluate.combining import WAYS, Combination, fit, fit_weights


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


@pytest.mark.parametrize("classes", [2, 3])
def test_stacking_gives_the_probabilities_of_scikit_learn(classes):
    labels, logits = draw(2, 90, classes)
    found = fit("stacking", labels, logits)
    logs = log_softmax(logits, -1)
    features = np.concatenate([each - each.mean(-1, keepdims=True) for each in logs], -1)
    likeliest = [LogisticRegression(C=c, max_iter=2000).fit(features, labels) for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    mine = softmax(found(logits), -1)
    assert any(np.allclose(mine, model.predict_proba(features), atol=1e-5) for model in likeliest)


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
