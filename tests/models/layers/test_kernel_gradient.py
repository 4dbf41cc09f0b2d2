"""Convolution with a kernel's gradient by patches is that of lax, and a CPU gets it where no other form is better."""

import jax
import numpy as np
import pytest

from jaxtl.models.layers.conv import convolve
from jaxtl.models.layers.kernel_gradient import convolve_patches
from jaxtl.parallel.backend import compiling_for

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def values(function, x, kernel):
    y, back = jax.vjp(function, x, kernel)
    gradient = np.random.default_rng(2).normal(size=y.shape).astype(np.float32)
    return y, *back(gradient)


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(abs(b).max())))


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_random_windows_strides_and_paddings(seed, channels):
    draw = np.random.default_rng([seed, channels])
    window, sides = draw.integers(1, 8, 2), draw.integers(7, 16, 2)
    strides = tuple(int(stride) for stride in draw.integers(1, 5, 2))
    pads = tuple(tuple(int(pad) for pad in draw.integers(0, 4, 2)) for _ in range(2))
    x = draw.normal(size=(draw.integers(1, 4), *sides, channels)).astype(np.float32)
    kernel = draw.normal(size=(*window, channels, 6)).astype(np.float32)
    assert_equal(
        values(lambda x, kernel: convolve_patches(x, kernel, strides, pads), x, kernel),
        values(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, pads, **LAYOUT), x, kernel),
    )


def test_a_literal_gradient():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    kernel = np.zeros((2, 2, 1, 1), np.float32)
    _, of_kernel = jax.grad(lambda x, k: convolve_patches(x, k, (2, 2), ((0, 0), (0, 0))).sum(), (0, 1))(x, kernel)
    # Windows at (0, 0), (0, 2), (2, 0) and (2, 2): their first pixels are 0, 2, 8 and 10.
    np.testing.assert_array_equal(of_kernel[..., 0, 0], [[20, 24], [36, 40]])


@pytest.mark.parametrize("padding", ["VALID", ((0, 0), (0, 0))])
@pytest.mark.parametrize("sides", [(7, 8), (3, 4)])
def test_without_padding_winograds_tiles_are_cut(padding, sides):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, *sides, 32)).astype(np.float32)
    kernel = draw.normal(size=(3, 3, 32, 33)).astype(np.float32)
    with compiling_for("cpu"):
        ours = values(lambda x, kernel: convolve(x, kernel, (1, 1), padding, **LAYOUT), x, kernel)
    theirs = values(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **LAYOUT), x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(abs(b).max()))


@pytest.mark.parametrize(
    ("window", "strides", "channels", "dtype", "by_patches"),
    [
        ((7, 7), (2, 2), 3, np.float32, True),
        ((3, 3), (2, 2), 64, np.float32, True),
        ((1, 7), (1, 1), 64, np.float32, True),
        ((3, 3), (1, 1), 16, np.float32, True),
        ((3, 3), (1, 1), 64, np.float32, False),  # Winograd's tiles.
        ((1, 1), (1, 1), 64, np.float32, False),  # A matrix product.
        ((7, 7), (2, 2), 3, "bfloat16", False),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "gpu", "none"])
def test_a_cpu_gets_it_in_float32(window, strides, channels, dtype, by_patches, backend):
    x, kernel = jax.ShapeDtypeStruct((1, 16, 16, channels), dtype), jax.ShapeDtypeStruct((*window, channels, 64), dtype)
    with compiling_for(backend):
        jaxpr = jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, strides, "SAME", **LAYOUT))(x, kernel)
    assert ("name=convolve_patches" in str(jaxpr)) == (by_patches and backend == "cpu")
