import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import nchw, nhwc

from jaxtl.models.layers.conv_norm import max_pool_3x3, mean_pool_3x3
from jaxtl.models.layers.pooling import average_to_grid, max_pool_2x2


def square(*rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def test_an_odd_last_row_and_column_are_left_out():
    x = square([1, 2, 9], [4, 3, 9], [9, 9, 9])
    np.testing.assert_array_equal(max_pool_2x2(x), square([4]))


def test_the_gradient_goes_to_the_largest():
    x = square([1, 2], [4, 3])
    gradient = jax.grad(lambda x: 5 * max_pool_2x2(x).sum())(x)
    np.testing.assert_array_equal(gradient, square([0, 0], [5, 0]))


def test_windows_of_a_grid_overlap_where_the_sides_do_not_divide():
    x = square([1, 2, 3], [4, 5, 6], [7, 8, 9])
    np.testing.assert_allclose(average_to_grid(x, 2), square([3, 4], [6, 7]))
    np.testing.assert_allclose(average_to_grid(square([1, 2]), 2), square([1, 2], [1, 2]))


@pytest.mark.parametrize("shape", [(2, 13, 9, 3), (1, 7, 7, 2), (1, 5, 20, 1)])
def test_a_grid_is_that_of_pytorch(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for side in (1, 4, 7):
        expected = torch.nn.functional.adaptive_avg_pool2d(nchw(x), side)
        np.testing.assert_allclose(average_to_grid(jnp.asarray(x), side), nhwc(expected), atol=1e-6)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("side", [7, 8, 9])
def test_windows_of_3_are_those_of_pytorch(side, ceil):
    x = np.random.default_rng(side).normal(size=(2, side, side + 1, 3)).astype(np.float32)
    expected = torch.nn.functional.max_pool2d(nchw(x), 3, 2, ceil_mode=ceil)
    for train in (False, True):
        np.testing.assert_array_equal(max_pool_3x3(jnp.asarray(x), train, ceil=ceil), nhwc(expected))


@pytest.mark.parametrize("counts_padding", [False, True])
def test_means_at_the_edge_are_those_of_pytorch(counts_padding):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    expected = torch.nn.functional.avg_pool2d(nchw(x), 3, 1, 1, count_include_pad=counts_padding)
    np.testing.assert_allclose(mean_pool_3x3(jnp.asarray(x), counts_padding=counts_padding), nhwc(expected), atol=1e-6)
