import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.layers.conv_norm import ConvNorm, rows


def test_a_convolution_is_normalised_and_cut_at_zero():
    layer = ConvNorm(1, (1, 3), 1, (0, 1), {"epsilon": 0.0})
    x = jnp.asarray([[[[1.0], [2.0], [4.0]]]])
    variables = jax.jit(layer.init, static_argnums=2)(jax.random.key(0), x, False)
    variables["params"]["conv"]["kernel"] = jnp.asarray([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1)
    variables["params"]["bn"]["bias"] = jnp.asarray([0.5])
    # Each place gets its left neighbour minus its right one: -2, -3 and 2.
    np.testing.assert_allclose(layer.apply(variables, x, False)[0, 0, :, 0], [0, 0, 2.5])


def test_rows_of_a_key_table():
    assert rows(["a"], ["b"]) == (("a.conv", "b/conv", "conv"), ("a.bn", "b/bn", "batchnorm"))
