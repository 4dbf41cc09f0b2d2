import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.train import losses

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
LABELS = jnp.array([0, 2])
SOFT = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])


def negative_margin(logits, labels):
    return -jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]


def mean_of_all(logits, labels):
    return logits.mean()


def test_integer_labels():
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, LABELS), -np.log([0.7, 0.5]), rtol=1e-6)


def test_probabilities():
    expected = [-0.5 * np.log(0.7) - 0.5 * np.log(0.2), -np.log(0.5)]
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, SOFT), expected, rtol=1e-6)


def test_smoothing_spreads_over_all_classes():
    # 0.7 + 0.3 / 3 on the label, 0.1 on each other class.
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    result = losses.softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.3)
    np.testing.assert_allclose(result[0], expected, rtol=1e-6)


def test_binary_sums_a_yes_or_no_of_each_class():
    logits = jnp.array([[0.0, np.log(3.0), -np.log(3.0)]])  # Probabilities 1/2, 3/4 and 1/4.
    expected = -(np.log(0.5) + np.log(0.75) + np.log(0.75))
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, jnp.array([1])), [expected], rtol=1e-6)
    both = losses.binary_cross_entropy(logits, jnp.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(both, [expected], rtol=1e-6)


def test_probabilities_follow_the_loss():
    logits = jnp.log(jnp.array([[3.0, 1.0]]))
    np.testing.assert_allclose(losses.to_probabilities(logits, "binary"), [[0.75, 0.5]], rtol=1e-6)
    for loss in ("softmax", "focal", "mine:loss"):
        np.testing.assert_allclose(losses.to_probabilities(logits, loss), [[0.75, 0.25]], rtol=1e-6)


def test_focal_counts_what_is_right_already_less():
    expected = [-(0.3**2) * np.log(0.7), -(0.5**2) * np.log(0.5)]
    np.testing.assert_allclose(losses.focal_loss(LOGITS, LABELS, gamma=2.0), expected, rtol=1e-5)
    expected = -0.5 * 0.3**2 * np.log(0.7) - 0.5 * 0.8**2 * np.log(0.2)
    np.testing.assert_allclose(losses.focal_loss(LOGITS, SOFT, gamma=2.0)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        losses.focal_loss(LOGITS, LABELS, gamma=0.0), losses.softmax_cross_entropy(LOGITS, LABELS), rtol=1e-6
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_a_finite_gradient_where_the_answer_is_certain(gamma):
    grads = jax.grad(lambda logits: losses.focal_loss(logits, jnp.array([0]), gamma=gamma).sum())(
        jnp.array([[200.0, 0.0, 0.0]])
    )
    assert np.isfinite(grads).all()


def test_class_weights():
    weighted = losses.class_weighted(losses.softmax_cross_entropy, [2.0, 5.0, 0.5])
    np.testing.assert_allclose(weighted(LOGITS, LABELS), -np.log([0.7, 0.5]) * [2.0, 0.5], rtol=1e-6)
    plain = losses.softmax_cross_entropy(LOGITS, SOFT)
    np.testing.assert_allclose(weighted(LOGITS, SOFT), plain * np.array([3.5, 0.5]), rtol=1e-6)


def test_balanced_weights_give_each_class_the_same_sum():
    weights = losses.balanced_weights([6, 3, 0, 1])
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 0.0, 10 / 3], rtol=1e-6)
    assert float((weights * np.array([6, 3, 0, 1])).sum()) == pytest.approx(10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softmax", losses.softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.1)),
        ("binary", losses.binary_cross_entropy(LOGITS, LABELS, label_smoothing=0.1)),
        ("focal", losses.focal_loss(LOGITS, LABELS, gamma=3.0, label_smoothing=0.1)),
        ("test_losses:negative_margin", -np.log([0.7, 0.5])),
    ],
)
def test_make_loss(name, expected):
    options = {"num_classes": 3, "label_smoothing": 0.1, "gamma": 3.0}
    np.testing.assert_allclose(losses.make_loss(name, **options)(LOGITS, LABELS), expected, rtol=1e-6)
    weighted = losses.make_loss(name, **options, weights=[1.0, 1.0, 4.0])
    np.testing.assert_allclose(weighted(LOGITS, LABELS), expected * np.array([1.0, 4.0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("softmix", "cannot be imported"),
        ("nowhere:loss", "No module named 'nowhere'"),
        ("test_losses:lost", "has no attribute 'lost'"),
        ("test_losses:LOGITS", "is no function"),
        ("test_losses:mean_of_all", r"gives shape \(\) for logits \(2, 3\)"),
        ("math:sqrt", "fails"),
    ],
)
def test_a_function_that_is_no_loss(name, message):
    with pytest.raises(UserError, match=message):
        losses.make_loss(name, num_classes=3)


def of_columns(logits, labels):
    return (logits * labels).sum(-1)


def test_several_labels_take_the_binary_loss_or_a_function():
    options = {"num_classes": 3, "several": True}
    many = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = losses.make_loss("binary", **options)(LOGITS, many)
    np.testing.assert_allclose(found, losses.binary_cross_entropy(LOGITS, many))
    np.testing.assert_allclose(losses.make_loss("test_losses:of_columns", **options)(LOGITS, many)[1], 0.0)
    for name in ("softmax", "focal"):
        with pytest.raises(UserError, match=f'"{name}" takes one label an image, .* give "binary"') as error:
            losses.make_loss(name, **options)
        assert error.value.arguments == ("loss",)
    with pytest.raises(UserError, match="do without") as error:
        losses.make_loss("binary", **options, weights=[1.0, 1.0, 1.0])
    assert error.value.arguments == ("class_weights",)
    # This one looks up the one label of an image.
    with pytest.raises(UserError, match=r"labels \(2, 3\)"):
        losses.make_loss("test_losses:negative_margin", **options)
