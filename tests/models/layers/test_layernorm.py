import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_same_form, differentiate, normal

from jaxtl.models.layers.layernorm import LayerNorm, normalize_rows
from jaxtl.parallel.backend import compiling_for

EPSILON = 1e-6


def test_a_row_by_hand():
    x, scale, bias = (jnp.asarray([row], jnp.float32) for row in ([1, 2, 3, 6], [1, 1, 2, 2], [0, 1, 0, 1]))
    # Mean 3, and variance (4 + 1 + 0 + 9) / 4.
    expected = np.asarray([[-2, -1, 0, 3]]) / np.sqrt(3.5) * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(normalize_rows(x, scale, bias, 0.0), expected, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 5, 48), (6, 48)])
def test_on_a_gpu_value_and_gradients_are_those_of_flax(shape):
    x, scale, bias = normal(*shape, mean=1, scale=3), normal(48, seed=1), normal(48, seed=2)
    norm = LayerNorm(epsilon=EPSILON)
    assert_same_form(lambda *xs: (norm.apply({"params": {"scale": xs[1], "bias": xs[2]}}, xs[0]), None), x, scale, bias)


@pytest.mark.gpu
def test_bfloat16_rows_have_float32_statistics():
    x, scale, bias = normal(64, 96, mean=1, scale=3), np.ones(96, np.float32), np.zeros(96, np.float32)

    def function(dtype):
        norm = LayerNorm(epsilon=EPSILON, dtype=dtype)
        return lambda x: (norm.apply({"params": {"scale": scale, "bias": bias}}, x.astype(dtype)), None)

    half = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    found = differentiate(function(jnp.bfloat16), half, backend="gpu")
    expected = differentiate(function(jnp.float32), half, backend="none")
    assert found["output"].dtype == jnp.bfloat16
    # Half a unit in the last place of numbers below 4, and two of a gradient below 1: what comes in is rounded too.
    np.testing.assert_allclose(found["output"].astype(np.float32), expected["output"], atol=2**-7)
    np.testing.assert_allclose(found["gradients"][0], expected["gradients"][0], atol=2**-7)


def test_the_parameters_are_those_of_flax():
    x = normal(2, 5, 8)
    with compiling_for("gpu"):
        variables = jax.jit(LayerNorm().init)(jax.random.key(0), x)
    expected = jax.jit(nn.LayerNorm().init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_a_mask_is_left_to_flax():
    x, mask = normal(2, 8), np.arange(8)[None] < 5
    norm = LayerNorm()
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    with compiling_for("gpu"):
        masked = norm.apply(variables, x, mask=mask)
    np.testing.assert_allclose(masked, nn.LayerNorm().apply(variables, x, mask=mask), rtol=1e-6)
