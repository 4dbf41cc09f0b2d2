import jax.numpy as jnp
import numpy as np

from jaxtl.train.losses import softmax_cross_entropy

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))


def test_integer_labels():
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, jnp.array([0, 2])), -np.log([0.7, 0.5]), rtol=1e-6)


def test_probabilities():
    labels = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = [-0.5 * np.log(0.7) - 0.5 * np.log(0.2), -np.log(0.5)]
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, labels), expected, rtol=1e-6)


def test_smoothing_spreads_over_all_classes():
    # 0.7 + 0.3 / 3 on the label, 0.1 on each other class.
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    result = softmax_cross_entropy(LOGITS, jnp.array([0, 2]), label_smoothing=0.3)
    np.testing.assert_allclose(result[0], expected, rtol=1e-6)
