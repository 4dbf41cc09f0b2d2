import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.layers.conv import convolve
from jaxtl.models.layers.winograd import convolve_tiles
from jaxtl.parallel.backend import compiling_for

NHWC = ("NHWC", "HWIO", "NHWC")


def windows(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)


def test_one_pixel_spreads_the_kernel_around_it():
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1)
    assert convolve_tiles(x, kernel)[0, :, :, 0].tolist() == [[8, 7, 6], [5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 2), (2, 2, 5, 4, 4), (3, 7, 4, 2, 5), (2, 8, 9, 32, 33)])
def test_result_and_gradients_are_nearly_as_exact_as_the_sum_over_windows(shape):
    batch, height, width, channels, features = shape
    random = np.random.default_rng(0)
    sizes = (batch, height, width, channels), (3, 3, channels, features), (batch, height, width, features)
    x, kernel, weight = (random.normal(size=size) for size in sizes)
    # In float64.
    patches = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(weight, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
    )
    exact = (
        np.einsum("bhwcij,ijcd->bhwd", patches, kernel),
        np.einsum("bhwdij,ijcd->bhwc", around, kernel[::-1, ::-1]),
        np.einsum("bhwcij,bhwd->ijcd", patches, weight),
    )

    def errors(form):
        @jax.jit
        def run(x, kernel, weight):
            y, back = jax.vjp(form, x, kernel)
            return y, *back(weight)

        found = run(*(jnp.asarray(array, jnp.float32) for array in (x, kernel, weight)))
        return [np.abs(np.asarray(a) - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]

    for ours, theirs in zip(errors(convolve_tiles), errors(windows), strict=True):
        assert ours < 4 * theirs + 2e-7


@pytest.mark.parametrize("padding", ["SAME", ((1, 1), (1, 1))])
def test_it_is_taken_where_it_is_for(padding):
    x, kernel = jnp.ones((1, 9, 9, 32)), jnp.ones((3, 3, 32, 32))
    program = jax.jit(lambda: convolve(x, kernel, (1, 1), padding, dimension_numbers=NHWC)).lower().as_text()
    assert "stablehlo.convolution" not in program


def test_a_cpu_computes_less_than_half_of_the_products():
    x, kernel = jnp.zeros((4, 28, 28, 64)), jnp.zeros((3, 3, 64, 64))

    def flops():
        function = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC))
        return function.lower(x, kernel).compile().cost_analysis()["flops"]

    ours = flops()
    with compiling_for("tpu"):
        plain = flops()
    assert 4 / 9 < ours / plain < 0.5


@pytest.mark.parametrize(
    ("channels", "side", "strides", "padding", "dtype"),
    [
        ((31, 32), 3, (1, 1), "SAME", "float32"),
        ((66, 32), 3, (1, 1), "SAME", "float32"),  # From many to few, as in DenseNet.
        ((32, 31), 3, (1, 1), "SAME", "float32"),
        ((32, 32), 5, (1, 1), "SAME", "float32"),
        ((32, 32), 3, (2, 2), "SAME", "float32"),
        ((32, 32), 3, (1, 1), ((0, 0), (1, 1)), "float32"),
        ((32, 32), 3, (1, 1), "SAME", "bfloat16"),
    ],
)
def test_what_it_is_not_for_is_left_to_the_sum_over_windows(channels, side, strides, padding, dtype):
    x, kernel = jnp.ones((1, 9, 9, channels[0]), dtype), jnp.ones((side, side, *channels), dtype)
    program = jax.jit(lambda: convolve(x, kernel, strides, padding, dimension_numbers=NHWC)).lower().as_text()
    assert "stablehlo.convolution" in program
    assert "stablehlo.dot_general" not in program
