import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.backend import compiling_for
from jaxtl.models.windows import convolve
from jaxtl.models.winograd import convolve_tiles

NHWC = ("NHWC", "HWIO", "NHWC")


def windows(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)


def test_one_pixel_spreads_the_kernel_around_it():
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1)
    assert convolve_tiles(x, kernel)[0, :, :, 0].tolist() == [[8, 7, 6], [5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 2), (2, 2, 5, 4, 4), (3, 7, 4, 2, 5), (2, 8, 9, 32, 33)])
def test_result_and_gradients_are_those_of_the_sum_over_windows(shape):
    batch, height, width, channels, features = shape
    random = np.random.default_rng(0)
    x, kernel, weight = (
        jnp.asarray(random.normal(size=sizes), jnp.float32)
        for sizes in (
            (batch, height, width, channels),
            (3, 3, channels, features),
            (batch, height, width, features),
        )
    )
    results, gradients = zip(
        *(
            jax.value_and_grad(lambda x, k, f=f: (f(x, k) * weight).sum(), (0, 1))(x, kernel)
            for f in (convolve_tiles, windows)
        ),
        strict=True,
    )
    np.testing.assert_allclose(*results, rtol=1e-5)
    np.testing.assert_allclose(convolve_tiles(x, kernel), windows(x, kernel), atol=1e-5 * channels**0.5)
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * float(jnp.abs(theirs).max()))


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
    ("side", "channels", "strides", "dtype"),
    [(3, 31, (1, 1), "float32"), (3, 32, (2, 2), "float32"), (5, 32, (1, 1), "float32"), (3, 32, (1, 1), "bfloat16")],
)
def test_what_it_is_not_for_is_left_to_the_sum_over_windows(side, channels, strides, dtype):
    x, kernel = jnp.ones((1, 9, 9, channels), dtype), jnp.ones((side, side, channels, 32), dtype)
    padding = (((side - 1) // 2,) * 2,) * 2
    program = jax.jit(lambda: convolve(x, kernel, strides, padding, dimension_numbers=NHWC)).lower().as_text()
    assert "stablehlo.convolution" in program
    assert "stablehlo.dot_general" not in program
