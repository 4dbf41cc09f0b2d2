import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidual

NORM = {"epsilon": 1e-5}


def run(spec, x, tf_padding=False, zero=False):
    block = InvertedResidual(spec, NORM, "relu", "sigmoid", tf_padding)
    variables = block.init(jax.random.key(0), x, False)
    if zero:
        variables["params"]["project_bn"]["scale"] = jnp.zeros(spec.width)
    return variables["params"], block.apply(variables, x, False)


def test_a_block_of_the_same_shape_adds_to_its_input():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32))
    np.testing.assert_array_equal(run(BlockSpec(8, 16, 3, 1, 4, "relu6"), x, zero=True)[1], x)
    np.testing.assert_array_equal(run(BlockSpec(16, 16, 3, 1, 4, "relu6"), x, zero=True)[1], jnp.zeros((2, 6, 6, 16)))


def test_what_is_as_wide_between_is_not_expanded():
    x = jnp.zeros((1, 6, 6, 8))
    assert set(run(BlockSpec(8, 8, 3, 1, 0, "relu"), x)[0]) == {"depthwise", "depthwise_bn", "project", "project_bn"}
    expanded, _ = run(BlockSpec(8, 16, 5, 1, 4, "relu"), x)
    assert {*expanded} - {"depthwise", "depthwise_bn", "project", "project_bn"} == {"expand", "expand_bn", "squeeze"}
    assert expanded["depthwise"]["kernel"].shape == (5, 5, 1, 16)


@pytest.mark.parametrize(("tf_padding", "corner"), [(False, 4), (True, 9)])
def test_tensorflow_pads_an_even_map_at_its_end_alone(tf_padding, corner):
    x = jnp.ones((1, 4, 4, 1))
    block = InvertedResidual(BlockSpec(1, 1, 3, 2, 0, "relu"), NORM, "relu", "sigmoid", tf_padding)
    variables = block.init(jax.random.key(0), x, False)
    variables["params"]["depthwise"]["kernel"] = jnp.ones((3, 3, 1, 1))
    variables["params"]["project"]["kernel"] = jnp.ones((1, 1, 1, 1))
    y = block.apply(variables, x, False)
    assert y.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(y[0, 0, 0, 0], corner, rtol=1e-4)
