import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.layers.dense import Dense, multiply
from jaxtl.parallel.backend import compiling_for


def test_product_and_gradients_are_those_of_the_plain_product():
    random = np.random.default_rng(0)
    x, kernel, weight = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((2, 3, 5), (5, 4), (2, 3, 4)))

    def loss(x, kernel):
        return (multiply(x, kernel) * weight).sum()

    of_x, of_kernel = jax.grad(loss, (0, 1))(x, kernel)
    np.testing.assert_allclose(multiply(x, kernel), np.einsum("bnc,cd->bnd", x, kernel), rtol=1e-5)
    np.testing.assert_allclose(of_x, np.einsum("bnd,cd->bnc", weight, kernel), rtol=1e-5)
    np.testing.assert_allclose(of_kernel, np.einsum("bnc,bnd->cd", x, weight), rtol=1e-5)


def test_a_product_with_a_precision_of_its_own_is_left_to_jax():
    x = jnp.ones((2, 5), jnp.bfloat16)
    layer = Dense(4, precision=jax.lax.Precision.HIGHEST, dtype=jnp.bfloat16)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert layer.apply(variables, x).dtype == jnp.bfloat16
    assert "custom_vjp_call" not in str(jax.make_jaxpr(layer.apply)(variables, x))


def test_the_layer_is_flax_dense_with_the_own_product_on_a_cpu_only():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
    layer = Dense(4)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (5, 4), "bias": (4,)}}
    np.testing.assert_allclose(layer.apply(variables, x), nn.Dense(4).apply(variables, x), rtol=1e-6)
    assert "custom_vjp_call" in str(jax.make_jaxpr(layer.apply)(variables, x))
    with compiling_for("tpu"):
        assert "custom_vjp_call" not in str(jax.make_jaxpr(layer.apply)(variables, x))
