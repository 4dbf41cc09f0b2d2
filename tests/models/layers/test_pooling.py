import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import nchw, nhwc

from jaxtl.models.layers.conv_norm import max_pool_3x3, mean_pool_3x3
from jaxtl.models.layers.pooling import average_to_grid, max_over_places, max_pool_2x2


def square(*rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def test_an_odd_last_row_and_column_are_left_out():
    x = square([1, 2, 9], [4, 3, 9], [9, 9, 9])
    np.testing.assert_array_equal(max_pool_2x2(x), square([4]))


def test_the_gradient_goes_to_the_largest():
    x = square([1, 2], [4, 3])
    gradient = jax.grad(lambda x: 5 * max_pool_2x2(x).sum())(x)
    np.testing.assert_array_equal(gradient, square([0, 0], [5, 0]))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 2), (1, 2, 3, 1)])
def test_windows_of_2_and_their_gradient_are_those_of_pytorch(shape):
    rng = np.random.default_rng(0)
    # Whole numbers, so that many are equal.
    x = rng.integers(0, 4, shape).astype(np.float32)
    theirs = nchw(x).requires_grad_()
    expected = torch.nn.functional.max_pool2d(theirs, 2)
    ours, backward = jax.vjp(jax.jit(max_pool_2x2), jnp.asarray(x))
    np.testing.assert_array_equal(ours, nhwc(expected.detach()))
    weights = rng.normal(size=ours.shape).astype(np.float32)
    expected.backward(nchw(weights))
    np.testing.assert_array_equal(backward(jnp.asarray(weights))[0], nhwc(theirs.grad))


def test_the_maximum_over_places_and_its_gradient_are_those_of_pytorch():
    rng = np.random.default_rng(0)
    x, weights = rng.integers(0, 9, (3, 12, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    theirs = torch.from_numpy(x).requires_grad_()
    expected = theirs.max(1).values
    expected.backward(torch.from_numpy(weights))
    ours, backward = jax.vjp(max_over_places, jnp.asarray(x))
    np.testing.assert_array_equal(ours, expected.detach())
    np.testing.assert_array_equal(backward(jnp.asarray(weights))[0], theirs.grad)


@pytest.mark.parametrize("pooling", [max_pool_2x2, lambda x: max_over_places(x.reshape(len(x), -1, x.shape[-1]))])
def test_a_gradient_does_not_depend_on_how_the_compiler_rounds_what_is_pooled(pooling):
    """XLA computes what is pooled once for the maximum, and another time where its gradient asks which one it was."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 16)), jnp.float32)
    scale, shift = (jnp.asarray(rng.normal(1, 0.3, (1, 1, 1, 16)), jnp.float32) for _ in range(2))

    def total(x):
        mean, variance = (statistic((0, 1, 2), keepdims=True) for statistic in (x.mean, x.var))
        return (pooling(jax.nn.relu((x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)) ** 2).sum()

    expected = jax.grad(total)(x)
    found = jax.jit(jax.grad(total))(x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))


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
