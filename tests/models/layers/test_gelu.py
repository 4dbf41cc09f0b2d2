import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, differentiate, normal

from jaxtl.models.layers.gelu import biased_gelu
from jaxtl.parallel.backend import compiling_for

GRID = np.asarray(jnp.linspace(-10, 10, 4001, dtype=jnp.bfloat16), np.float32)


WEIGHTS = np.random.default_rng(7).normal(size=(64, 8)).astype(np.float32)  # Those of `differentiate`.


def distribution(x):
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


def density(x):
    return np.exp(-(np.asarray(x, np.float64) ** 2) / 2) / math.sqrt(2 * math.pi)


def unit(x, bits):
    """A unit in the last place of numbers with so many bits after the first."""
    return 2.0 ** (np.floor(np.log2(np.maximum(np.abs(x), 1e-30))) - bits)


def gelu(x):
    return biased_gelu(x, jnp.zeros(x.shape[-1:]), "exact")


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bits"), [pytest.param(jnp.bfloat16, 7, marks=pytest.mark.slow), (jnp.float16, 10)])
def test_16_bits_are_right_to_the_last_on_a_gpu(dtype, bits):
    x = np.asarray(jnp.asarray(GRID, dtype), np.float32)
    with compiling_for("gpu"):
        values, back = jax.vjp(gelu, jnp.asarray(x, dtype))
        (slopes,) = back(jnp.ones(x.shape, dtype))
    assert (values.dtype, slopes.dtype) == (dtype, dtype)
    wanted = (x * distribution(x), distribution(x) + x * density(x))
    for found, exact in zip((values, slopes), wanted, strict=True):
        # Far below zero both vanish, and the formula is right to an absolute number alone.
        error = np.abs(np.asarray(found, np.float64) - exact)
        assert np.all(error <= unit(exact, bits) + 4e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_the_bias_is_added_and_has_its_gradient(kind):
    x, bias = jnp.asarray(normal(64, 8), jnp.bfloat16), jnp.asarray(normal(8, seed=1), jnp.bfloat16)
    by_form = [
        differentiate(lambda x, bias: (biased_gelu(x, bias, kind), None), x, bias, backend=name)
        for name in ("gpu", "none")
    ]
    for part in ("output", "gradients"):
        # Where nothing lies between in 32 bits, each operation rounds.
        assert_close(by_form[0][part], by_form[1][part], 3e-2)
    exact = jax.grad(lambda bias: (biased_gelu(x.astype(jnp.float32), bias, kind) * WEIGHTS).sum())
    found = by_form[0]["gradients"][1]
    np.testing.assert_allclose(np.asarray(found, np.float32), exact(bias.astype(jnp.float32)), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("backend", ["none", "cpu", "gpu"])
def test_float32_is_the_exact_function(backend):
    found = differentiate(lambda x: (gelu(x), None), GRID, backend=backend)
    np.testing.assert_allclose(found["output"], GRID * distribution(GRID), atol=1e-6)
    weights = normal(GRID.size, seed=7)
    slope = distribution(GRID) + GRID * density(GRID)
    np.testing.assert_allclose(found["gradients"][0], slope * weights, atol=2e-6)


def test_only_16_bits_on_a_gpu_have_a_function_of_their_own():
    def text(dtype, backend):
        with compiling_for(backend):
            return str(jax.make_jaxpr(lambda x: gelu(x))(jnp.ones(3, dtype)))

    assert "erf" not in text(jnp.bfloat16, "gpu")
    assert "erf" not in text(jnp.float16, "gpu")
    assert all("erf" in text(jnp.bfloat16, name) for name in ("cpu", "tpu", "none"))
    assert "erf" in text(jnp.float32, "gpu")
