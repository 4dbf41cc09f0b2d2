"""Convolution of each channel alone is that of lax, forwards and backwards, and a CPU gets it as sums."""

import jax
import numpy as np
import pytest

from jaxtl.models.layers.conv import convolve
from jaxtl.parallel.backend import compiling_for

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def compare(x, kernel, strides, padding):
    options = {**LAYOUT, "feature_group_count": x.shape[-1]}

    def values(function, x, kernel):
        y, back = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding, **options), x, kernel)
        gradient = np.random.default_rng(2).normal(size=y.shape).astype(np.float32)
        return y, *back(gradient)

    compared = jax.jit(
        lambda x, kernel: (values(convolve, x, kernel), values(jax.lax.conv_general_dilated, x, kernel))
    )(x, kernel)
    for ours, theirs in zip(*compared, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(abs(theirs).max())))


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 24))])
def test_random_windows_strides_and_paddings(seed):
    draw = np.random.default_rng(seed)
    window = tuple(draw.integers(1, 8, 2))
    strides = tuple(int(stride) for stride in draw.integers(1, 4, 2))
    sides = draw.integers(7, 16, 2)
    channels, batch = draw.integers(2, 7), draw.integers(1, 4)
    pads = [tuple(int(pad) for pad in draw.integers(0, 4, 2)) for _ in range(2)]
    padding = draw.choice(["SAME", "VALID", "pads"])
    compare(
        draw.normal(size=(batch, *sides, channels)).astype(np.float32),
        draw.normal(size=(*window, 1, channels)).astype(np.float32),
        strides,
        pads if padding == "pads" else str(padding),
    )


@pytest.mark.parametrize("side", [32, 33, 40], ids=["small", "line", "lines"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2), (7, 1)])
def test_the_windows_of_the_networks_on_maps_of_either_kind(side, size, stride):
    draw = np.random.default_rng(size)
    x, kernel = draw.normal(size=(2, side, side, 4)), draw.normal(size=(size, size, 1, 4))
    compare(x.astype(np.float32), kernel.astype(np.float32), (stride, stride), [(size // 2, size // 2)] * 2)


def test_a_line_of_results_is_exact():
    x = np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 1, 5, 1) * np.float32([1, 10])
    kernel = np.float32([1, 2, 4]).reshape(1, 3, 1, 1) * np.float32([1, 0.5])
    y = convolve(x, kernel, (1, 2), [(0, 0), (1, 1)], **LAYOUT, feature_group_count=2)
    # 2 * 1 + 4 * 2, then 1 * 2 + 2 * 3 + 4 * 4, then 1 * 4 + 2 * 5; ten times half of each.
    np.testing.assert_array_equal(y[0, 0], [[10, 50], [24, 120], [14, 70]])


@pytest.mark.parametrize(
    ("backend", "groups", "features", "dtype", "convolutions"),
    [
        ("cpu", 8, 8, np.float32, 0),
        ("cpu", 8, 16, np.float32, 1),
        ("cpu", 4, 8, np.float32, 1),
        ("cpu", 8, 8, np.float16, 1),
        ("gpu", 8, 8, np.float32, 1),
        ("tpu", 8, 8, np.float32, 1),
        ("none", 8, 8, np.float32, 1),
    ],
)
def test_only_a_cpu_gets_sums_in_place_of_the_convolution(backend, groups, features, dtype, convolutions):
    x, kernel = np.ones((1, 6, 6, 8), dtype), np.ones((3, 3, 8 // groups, features), dtype)
    with compiling_for(backend):
        program = jax.make_jaxpr(lambda x, k: convolve(x, k, (1, 1), "SAME", **LAYOUT, feature_group_count=groups))
        assert str(program(x, kernel)).count("conv_general_dilated") == convolutions


def test_large_windows_and_dilated_ones_stay_convolutions():
    x, kernel = np.ones((1, 20, 20, 4), np.float32), np.ones((9, 9, 1, 4), np.float32)
    for size, options in ((9, {}), (3, {"rhs_dilation": (2, 2)}), (3, {"lhs_dilation": (2, 1)})):
        program = jax.make_jaxpr(
            lambda x, k, options=options: convolve(
                x, k, (1, 1), [(1, 1), (1, 1)], **LAYOUT, feature_group_count=4, **options
            )
        )
        assert str(program(x, kernel[:size, :size])).count("conv_general_dilated[") == 1
