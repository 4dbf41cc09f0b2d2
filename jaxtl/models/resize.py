"""Fits arrays to another input: position embeddings and biases to another grid, a first layer to other channels."""

import math

import numpy as np


def resize_positions(positions: np.ndarray, tokens: int, *, prefix: int, how: str) -> np.ndarray:
    """Resizes position embeddings by cubic interpolation, as PyTorch does.

    Args:
      positions: [1, prefix + n * n, D]; the first `prefix` belong to no place and stay as they are.
      tokens: how many there shall be, prefix + m * m.
      prefix: the number of tokens before the grid.
      how: "antialiased", where the filter widens as the grid shrinks (timm); "bicubic", where it does not
        (transformers); or "corners", the same with the corners of one grid on those of the other (torchvision).

    Returns:
      position embeddings [1, tokens, D].

    Raises:
      ValueError: either grid is no square.
    """
    before, after = (math.isqrt(count - prefix) for count in (positions.shape[1], tokens))
    if (before**2, after**2) != (positions.shape[1] - prefix, tokens - prefix):
        raise ValueError(f"{positions.shape[1]} or {tokens} tokens are no {prefix} and a square grid")
    if before == after:
        return positions
    weights = _cubic_matrix(before, after, how)
    grid = positions[0, prefix:].reshape(before, before, -1).astype(np.float64)
    grid = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    resized = np.concatenate([positions[0, :prefix], grid.reshape(after * after, -1)])
    return resized[None].astype(positions.dtype)


def resize_offsets(table: np.ndarray, offsets: int) -> np.ndarray:
    """Resizes biases by offset, [n * n, heads] to [offsets, heads] with m * m offsets, by cubic interpolation.

    Raises:
      ValueError: either number is no square.
    """
    grid = resize_positions(table[None], offsets, prefix=0, how="bicubic")
    return grid[0]


def _cubic_matrix(before: int, after: int, how: str) -> np.ndarray:
    """Gives the matrix [after, before] that interpolates a line of samples."""
    antialias = how == "antialiased"
    # PyTorch takes Pillow's cubic (-1/2) with antialiasing and its older one (-3/4) without.
    sharpness = -0.5 if antialias else -0.75
    scale = before / after
    stretch = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(after) + 0.5) * scale - 0.5
    if how == "corners":
        centres = np.arange(after) * ((before - 1) / max(after - 1, 1))
    first = np.floor(centres - 2 * stretch).astype(int)
    taps = first[:, None] + np.arange(math.ceil(4 * stretch) + 2)
    weights = _cubic(np.abs(taps - centres[:, None]) / stretch, sharpness)
    if antialias:
        # What lies outside is left out, and the rest weighs 1 again; without antialiasing the border is repeated.
        weights = np.where((taps >= 0) & (taps < before), weights, 0)
        weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, None], taps.clip(0, before - 1)), weights)
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel, https://doi.org/10.1109/TASSP.1981.1163711, of the distance x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def remap_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Fits a first layer [H, W, C, D] to images of other channels, the scale of its output kept.

    Fewer channels share the sum of all; more repeat the old ones in turn, each weighing less.
    """
    before = kernel.shape[2]
    if channels < before:
        kernel = np.repeat(kernel.sum(axis=2, keepdims=True) / channels, channels, axis=2)
    elif channels > before:
        kernel = kernel[:, :, np.arange(channels) % before] * np.float32(before / channels)
    return kernel
