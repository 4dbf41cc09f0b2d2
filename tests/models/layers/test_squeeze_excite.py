import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxtl.models.layers.squeeze_excite import ACTIVATIONS, GATES, SqueezeExcite, divisible


def test_channels_are_weighed_by_their_means():
    layer = SqueezeExcite(2, "relu", "sigmoid")
    x = jnp.asarray([[[[1.0, 2.0]], [[3.0, -4.0]]]])
    params = {
        "reduce": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "expand": {"kernel": jnp.eye(2), "bias": jnp.asarray([0.0, 1.0])},
    }
    # The means are 2 and -1: ReLU leaves 2 and 0, and the biases make 2 and 1 of them.
    expected = np.asarray(x) * np.asarray([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-6)


def test_its_functions_at_a_few_places():
    x = jnp.asarray([-4.0, -1.5, 0.0, 1.5, 8.0])
    np.testing.assert_allclose(ACTIVATIONS["relu6"](x), [0, 0, 0, 1.5, 6])
    np.testing.assert_allclose(ACTIVATIONS["hard_swish"](x), [0, -0.375, 0, 1.125, 8], rtol=1e-6)
    np.testing.assert_allclose(GATES["hard_sigmoid"](x), [0, 0.25, 0.5, 0.75, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("width", "rounded"), [(16, 16), (4, 8), (18, 24), (60, 64), (67.2, 64), (10, 16), (44, 48), (43, 40)]
)
def test_widths_are_multiples_of_8_and_not_a_tenth_less(width, rounded):
    assert divisible(width) == rounded


def test_it_starts_without_a_preference():
    layer = SqueezeExcite(2, "relu", "sigmoid")
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))
    np.testing.assert_allclose(layer.apply(variables, jnp.zeros((1, 2, 2, 4))), np.zeros((1, 2, 2, 4)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ACTIVATIONS["relu6"], "ReLU6"),
        (ACTIVATIONS["hard_swish"], "Hardswish"),
        (ACTIVATIONS["swish"], "SiLU"),
        (GATES["hard_sigmoid"], "Hardsigmoid"),
        (GATES["sigmoid"], "Sigmoid"),
    ],
)
def test_values_and_gradients_are_those_of_torch(ours, theirs):
    # Corners of relu6, and values about those of the others, whose own are a matter of rounding.
    x = np.float32([-7, -3.5, -2.9, -1, 0, 0.5, 2.9, 3.5, 6, 7] if theirs != "Hardswish" else [-7, -3.5, -1, 0, 1, 7])
    there = torch.from_numpy(x).requires_grad_()
    y = getattr(torch.nn, theirs)()(there)
    y.sum().backward()
    np.testing.assert_allclose(ours(x), y.detach(), atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: ours(x).sum())(x), there.grad, atol=1e-6)
