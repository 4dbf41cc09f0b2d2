"""Convolutions and max pooling are those of JAX and Flax, in the form of every backend."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from forms import assert_same_form, normal

from jaxtl.models.layers.conv import convolve, max_pool
from jaxtl.parallel.backend import compiling_for

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
SAME = {1: ((0, 0), (0, 0)), 3: ((1, 1), (1, 1)), 7: ((3, 3), (3, 3))}


# Size of the kernel, stride, padding, channels and sides of the input.
CASES = [
    (1, 1, SAME[1], 5, (7, 9)),
    (1, 1, "SAME", 5, (7, 9)),
    (1, 1, "VALID", 5, (8, 8)),
    (1, 2, SAME[1], 5, (7, 9)),
    (1, 2, SAME[1], 5, (8, 8)),
    (1, 2, "SAME", 5, (8, 7)),
    (1, 1, SAME[3], 5, (7, 9)),
    (3, 1, SAME[3], 5, (7, 9)),
    (3, 2, SAME[3], 5, (7, 9)),
    (3, 2, "SAME", 5, (8, 8)),
    *((7, 2, SAME[7], channels, (16, 12)) for channels in (1, 2, 3, 4, 5)),
    (7, 2, SAME[7], 3, (15, 12)),
    (7, 2, SAME[7], 3, (16, 13)),
    (7, 2, SAME[7], 3, (15, 13)),
    (7, 2, SAME[7], 3, (2, 2)),
    (7, 2, "SAME", 3, (16, 12)),
    (7, 1, SAME[7], 3, (16, 12)),
]
# Those that are compiled on a GPU too: one of each kind.
ON_GPU = [CASES[0], CASES[3], CASES[7], (7, 2, SAME[7], 3, (16, 12)), (7, 2, SAME[7], 3, (15, 13))]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.gpu if case in ON_GPU else ()) for case in CASES]
)
def test_convolutions_are_those_of_lax(case, backend):
    size, stride, padding, channels, sides = case
    x, kernel = normal(2, *sides, channels), normal(size, size, channels, 6, seed=1)
    assert_same_form(
        lambda x, kernel: (convolve(x, kernel, (stride, stride), padding, **OPTIONS), None), x, kernel, backend=backend
    )


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.vmap], ids=["plain", "checkpoint", "vmap"])
def test_gradients_of_kernels_on_a_gpu_lie_as_the_kernels_do(wrap):
    x, kernel = normal(1, 2, 6, 6, 3), normal(1, 3, 3, 3, 4, seed=1)

    def function(x, kernel):
        # Wrapped anew each time, since `jax.checkpoint` keeps what it traced by function.
        one = wrap(lambda x, kernel: convolve(x, kernel, (2, 2), SAME[3], **OPTIONS))
        return one(x, kernel) if wrap is jax.vmap else one(x[0], kernel[0])

    def gradient(backend):
        with compiling_for(backend):
            return str(jax.make_jaxpr(jax.grad(lambda x, kernel: (function(x, kernel) ** 2).sum(), 1))(x, kernel))

    assert_same_form(lambda x, kernel: (function(x, kernel), None), x, kernel)
    assert "layout_constraint" in gradient("gpu")
    assert "layout_constraint" not in gradient("none")


def test_the_stem_of_a_gpu_is_a_convolution_of_16_channels():
    def shapes(channels, height):
        x, kernel = normal(1, height, 32, channels), normal(7, 7, channels, 8)
        with compiling_for("gpu"):
            jaxpr = jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, (2, 2), SAME[7], **OPTIONS))(x, kernel)
        (equation,) = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
        return [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]

    assert shapes(3, 32) == [(1, 16, 16, 16), (4, 4, 16, 8), (1, 16, 16, 8)]
    assert shapes(1, 32) == [(1, 16, 16, 16), (4, 4, 16, 8), (1, 16, 16, 8)]
    assert shapes(5, 32) == [(1, 32, 32, 5), (7, 7, 5, 8), (1, 16, 16, 8)]
    assert shapes(3, 33) == [(1, 33, 32, 3), (7, 7, 3, 8), (1, 17, 16, 8)]


def pool(x, padding, backend):
    with compiling_for(backend):
        return max_pool(x, padding, train=True)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (1, 1))])
@pytest.mark.parametrize("side", [8, 9])
def test_max_pooling_is_that_of_linen_to_the_bit_where_values_are_equal_too(padding, side, backend):
    x = np.random.default_rng(0).integers(0, 4, (2, side, side, 3)).astype(np.float32)
    functions = (
        lambda x: pool(x, padding, backend),
        lambda x: nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding),
    )

    def differentiate(function, x):
        output, back = jax.vjp(function, x)
        return output, back(np.random.default_rng(1).integers(1, 100, output.shape).astype(np.float32))[0]

    ours, theirs = jax.jit(lambda x: [differentiate(function, x) for function in functions])(x)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.gpu
def test_max_pooling_on_a_gpu_is_the_plain_one():
    x = np.random.default_rng(0).integers(0, 4, (2, 9, 8, 3)).astype(np.float32)
    assert_same_form(lambda x: (max_pool(x, ((1, 1), (1, 1)), train=True), None), x, tolerance=1e-6)
