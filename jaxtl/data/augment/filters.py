"""What disturbs the pixels of a finished view, uint8 [S, S, 3]: blur, noise, and an erased box."""

import math

import numpy as np

from jaxtl.data.augment.crops import try_box

# Width by height of an erased box, as in its paper.
_ERASE_RATIO = (0.3, 1 / 0.3)


def gaussian_blur(view: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs a view with a Gaussian of `sigma` pixels, cut off at three of them; beyond the border it is mirrored."""
    radius = max(1, math.ceil(3 * sigma))
    places = np.arange(-radius, radius + 1)
    kernel = np.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    blurred = view.astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(blurred, [(radius, radius) if i == axis else (0, 0) for i in range(3)], mode="reflect")
        count = view.shape[axis]
        blurred = np.zeros(view.shape, np.float32)
        for i, weight in enumerate(kernel):
            rows = slice(i, i + count)
            blurred += weight * (padded[rows] if axis == 0 else padded[:, rows])
    return np.rint(blurred).astype(np.uint8)


def gaussian_noise(view: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of the standard deviation `sigma`, for images in [0, 1], to each value, and cuts it to [0, 255]."""
    noise = rng.standard_normal(view.shape, dtype=np.float32)
    return np.rint(view + np.float32(255 * sigma) * noise).clip(0, 255).astype(np.uint8)


def erase(
    view: np.ndarray, rng: np.random.Generator, *, area: tuple[float, float], color: tuple[int, int, int]
) -> np.ndarray:
    """Overwrites a box of a drawn place, area (as a share of the view) and aspect with one colour.

    Where none of ten drawn boxes fits, nothing is erased.
    """
    box = try_box(view.shape[1], view.shape[0], rng, scale=area, ratio=_ERASE_RATIO)
    if box is None:
        return view
    left, top, right, bottom = box
    view = view.copy()
    view[top:bottom, left:right] = color
    return view
