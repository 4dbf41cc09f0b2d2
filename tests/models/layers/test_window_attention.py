import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import normal

from jaxtl.models.layers.window_attention import WindowAttention, join_windows, relative_bias, split_windows


def test_windows_are_cut_row_by_row():
    x = jnp.arange(4 * 6).reshape(1, 4, 6, 1)
    windows = split_windows(x, (2, 3))
    np.testing.assert_array_equal(windows[0, :2, :, 0], [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]])
    np.testing.assert_array_equal(join_windows(windows, (2, 3), (4, 6)), x)


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (3, 2), (2, 5)])
def test_a_pair_of_places_has_the_bias_of_its_offset(sides):
    height, width = sides
    table = normal((2 * height - 1) * (2 * width - 1), 3)
    found = relative_bias(jnp.asarray(table), sides)
    places = [(i, j) for i in range(height) for j in range(width)]
    for a, (i, j) in enumerate(places):
        for b, (k, m) in enumerate(places):
            row = (i - k + height - 1) * (2 * width - 1) + j - m + width - 1
            np.testing.assert_array_equal(found[:, a, b], table[row])


def _attend(x, mask=None, **fields):
    module = WindowAttention(heads=2, sides=(2, 2), **fields)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape)), variables)
    return jax.jit(module.apply)(variables, x, mask), variables["params"]


def test_attention_is_the_softmax_of_products_and_biases():
    x = normal(1, 1, 4, 4)
    found, params = jax.device_get(_attend(jnp.asarray(x)))
    query, key, value = np.split(x[0, 0] @ params["qkv"]["kernel"] + params["qkv"]["bias"], 3, axis=-1)
    bias = np.asarray(relative_bias(jnp.asarray(params["relative_bias"]), (2, 2)))
    heads = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(2) + bias[head])
        heads.append(weights / weights.sum(axis=-1, keepdims=True) @ value[:, part])
    expected = np.concatenate(heads, axis=-1) @ params["proj"]["kernel"] + params["proj"]["bias"]
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def test_places_that_the_mask_keeps_apart_do_not_see_each_other():
    x = jnp.asarray(normal(1, 2, 4, 4))
    apart = np.zeros((2, 1, 4, 4), np.float32)
    apart[1, :, :2, 2:] = apart[1, :, 2:, :2] = -100.0
    changed = x.at[0, 1, 3].add(1.0).at[0, 0, 3].add(1.0)
    before, _ = _attend(x, jnp.asarray(apart))
    after, _ = _attend(changed, jnp.asarray(apart))
    moved = np.abs(np.asarray(after - before)).max(axis=-1)[0] > 1e-6
    np.testing.assert_array_equal(moved, [[True] * 4, [False, False, True, True]])


@pytest.mark.slow
def test_a_scale_takes_the_place_of_that_of_the_head():
    x = jnp.asarray(normal(1, 1, 4, 4))
    np.testing.assert_allclose(_attend(x, scale=2**-0.5)[0], _attend(x)[0], atol=1e-6)
    assert np.abs(np.asarray(_attend(x, scale=4**-0.5)[0] - _attend(x)[0])).max() > 1e-3
