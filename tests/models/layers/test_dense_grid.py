import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.layers.dense_grid import DenseGrid

X = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)


def run(x, **fields):
    layer = DenseGrid(5, 3, **fields)
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.asarray(X))
    return variables["params"]["kernel"], layer.apply(variables, jnp.asarray(x))


def test_a_grid_of_its_side_is_one_product():
    kernel, y = run(X)
    np.testing.assert_allclose(y, X.reshape(2, 36) @ np.asarray(kernel).reshape(36, 5), atol=1e-5)


def test_a_larger_grid_is_averaged_first():
    larger = np.repeat(np.repeat(X, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(run(larger)[1], run(X)[1], atol=1e-5)


def test_or_the_window_moves_over_it():
    larger = np.pad(X, ((0, 0), (0, 1), (0, 0), (0, 0)))
    kernel, y = run(larger, average_first=False)
    assert y.shape == (2, 2, 1, 5)
    np.testing.assert_allclose(y[:, 0, 0], X.reshape(2, 36) @ np.asarray(kernel).reshape(36, 5), atol=1e-5)


def test_a_smaller_grid_is_averaged_whatever_the_window_does():
    small = np.ones((1, 2, 2, 4), np.float32)
    assert run(small, average_first=False)[1].shape == (1, 1, 1, 5)
