"""Resized positions are those of timm and transformers; remapped channels keep the scale of the output."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxtl.models.resize import remap_channels, resize_positions


def _reference(positions, side, *, prefix, how):
    grid = torch.from_numpy(positions[:, prefix:])
    before = int(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(
        grid, size=(side, side), mode="bicubic", antialias=how == "antialiased", align_corners=how == "corners"
    )
    return np.concatenate([positions[:, :prefix], grid.flatten(2).transpose(1, 2).numpy()], axis=1)


@pytest.mark.parametrize("how", ["antialiased", "bicubic", "corners"], ids=["timm", "transformers", "torchvision"])
@pytest.mark.parametrize(("before", "after"), [(14, 24), (24, 14), (14, 7), (37, 16), (7, 32), (5, 6), (16, 1), (1, 3)])
def test_resized_positions_are_those_of_the_reference(before, after, how):
    positions = np.random.default_rng(0).normal(size=(1, before**2 + 2, 8)).astype(np.float32)
    resized = resize_positions(positions, after**2 + 2, prefix=2, how=how)
    expected = _reference(positions, after, prefix=2, how=how)
    np.testing.assert_allclose(resized, expected, atol=2e-5)
    np.testing.assert_array_equal(resized[:, :2], positions[:, :2])
    assert resized.dtype == np.float32


def test_positions_of_the_same_grid_are_not_touched():
    positions = np.ones((1, 17, 4), np.float32)
    assert resize_positions(positions, 17, prefix=1, how="antialiased") is positions


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="square grid"):
        resize_positions(np.ones((1, 13, 4)), 17, prefix=1, how="antialiased")


def test_a_grey_image_gives_what_its_three_equal_channels_gave():
    generator = np.random.default_rng(0)
    kernel, grey = generator.normal(size=(3, 3, 3, 5)), generator.normal(size=(3, 3, 1))
    before = np.einsum("hwc,hwcd->d", np.repeat(grey, 3, axis=2), kernel)
    np.testing.assert_allclose(np.einsum("hwc,hwcd->d", grey, remap_channels(kernel, 1)), before)


@pytest.mark.parametrize("channels", [2, 4, 6, 13])
def test_equal_channels_give_the_same_output_whatever_their_number(channels):
    kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype(np.float32)
    remapped = remap_channels(kernel, channels)
    assert remapped.shape == (2, 2, channels, 5)
    if channels % 3 == 0 or channels < 3:
        np.testing.assert_allclose(remapped.sum(axis=2), kernel.sum(axis=2), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(remapped[:, :, 3], kernel[:, :, 0] * 3 / channels, rtol=1e-6)


def test_three_channels_stay_as_they_are():
    kernel = np.ones((2, 2, 3, 5))
    assert remap_channels(kernel, 3) is kernel
