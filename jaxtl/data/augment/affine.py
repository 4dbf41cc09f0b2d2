"""Affine transformations of images: matrices that are composed, and one resampling of the source that applies them.

A matrix [3, 3] maps points (x, y, 1) in pixels, x to the right and y downwards. (0, 0) is the corner of the image and
(0.5, 0.5) the centre of its first pixel, as Pillow, torchvision's PIL functions and OpenGL have it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

FillMode = Literal["constant", "reflect", "nearest", "wrap"]
FILLS = ("constant", "reflect", "nearest", "wrap")

# Up to so many source pixels a view pixel, one bilinear sample a pixel skips none that matters. For more, the source is
# averaged before: over whole blocks from 2 * 1.3 on, and over a box that reaches 0.4 of the rest to either side. On
# noise with the spectrum of photographs, that leaves 0.8 to 2.7 grey levels to Pillow's antialiased resize at 1.2 to 3
# pixels, where plain samples leave 2.5 to 16 and four samples a pixel, which take twice the time, 1 to 5.5.
_DENSE, _BLOCK, _BLUR = 1.1, 1.3, 0.4
# Pixels around the view's corners that blur and bilinear samples may look at.
_REACH = 3
# An axis is not turned by what is left of rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Fill:
    """What lies beyond the border of an image.

    Attributes:
      mode: "constant" is one colour (k k | a b c | k k), "nearest" the last pixel (a a | a b c | c c), "reflect" the
        mirror image with its edge (b a | a b c | c b), which torchvision calls symmetric, and "wrap" the image again
        (b c | a b c | a b): the names of Keras and SciPy.
      color: of "constant", in [0, 255].
    """

    mode: FillMode = "constant"
    color: tuple[int, int, int] = (0, 0, 0)


def translation(x: float, y: float) -> np.ndarray:
    """Moves by (x, y) pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: float, y: float) -> np.ndarray:
    """Scales about the origin; a negative factor mirrors."""
    return np.diag([x, y, 1.0])


def rotation(degrees: float) -> np.ndarray:
    """Turns counter-clockwise, as one sees it, about the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def shearing(x: float, y: float = 0.0) -> np.ndarray:
    """Slants: each pixel further down moves by x pixels to the right, each one further right by y downwards."""
    return np.array([[1.0, x, 0.0], [y, 1.0, 0.0], [0.0, 0.0, 1.0]])


def about(center: tuple[float, float], matrix: np.ndarray) -> np.ndarray:
    """Returns the transformation that holds `center` still instead of the origin."""
    return translation(*center) @ matrix @ translation(-center[0], -center[1])


def warp(
    image: Image.Image, matrix: np.ndarray, size: tuple[int, int], *, resampling: Image.Resampling, fill: Fill
) -> Image.Image:
    """Resamples an image once, through a matrix.

    Where nothing is turned or slanted, Pillow's resize does it, with the antialiasing and the interpolation that the
    weights saw. Otherwise each pixel is a bilinear sample, of a source that is averaged over about a view pixel first
    where the view is smaller, so that nothing is skipped. (Pillow interpolates cubically with one kernel in `resize`
    and a sharper one in `transform`; bilinear sampling is the same in both.)

    Args:
      image: RGB.
      matrix: from the points of the image to those of the view, [3, 3].
      size: width and height of the view in pixels.
      resampling: of the resize; "nearest" is kept in every case.
      fill: what lies beyond the image.
    """
    inverse = np.linalg.inv(matrix)
    if abs(inverse[0, 1]) < _ROUNDING and abs(inverse[1, 0]) < _ROUNDING:
        return _resize(image, inverse, size, resampling, fill)
    return _sample(image, inverse, size, resampling, fill)


def window(image: Image.Image, box: tuple[int, int, int, int], fill: Fill) -> Image.Image:
    """Returns the pixels of a box (left, top, right, bottom), which may reach beyond the image on any side."""
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        return image if box == (0, 0, *image.size) else image.crop(box)
    if fill.mode == "constant":
        out = Image.new("RGB", (right - left, bottom - top), fill.color)
        out.paste(image, (-left, -top))
        return out
    columns = _fold(np.arange(left, right), image.width, fill.mode)
    rows = _fold(np.arange(top, bottom), image.height, fill.mode)
    return Image.fromarray(np.asarray(image)[rows][:, columns])


def _fold(index: np.ndarray, count: int, mode: FillMode) -> np.ndarray:
    """Maps any indices to those in [0, count)."""
    if mode == "nearest":
        return index.clip(0, count - 1)
    if mode == "wrap":
        return index % count
    index = index % (2 * count)
    return np.minimum(index, 2 * count - 1 - index)


def _resize(
    image: Image.Image, inverse: np.ndarray, size: tuple[int, int], resampling: Image.Resampling, fill: Fill
) -> Image.Image:
    x, y = inverse[0, 2], inverse[1, 2]
    ends = ((x, x + inverse[0, 0] * size[0]), (y, y + inverse[1, 1] * size[1]))
    (left, right), (top, bottom) = (sorted(pair) for pair in ends)
    outer = _outer_box(left, top, right, bottom)
    if not _within(outer, image.size):
        # What is filled may be many times the image: it is made at a size that the view can still use.
        factor = max(1, int(min((right - left) / size[0], (bottom - top) / size[1]) / 3))
        image, inverse = _reduced(image, inverse, factor)
        left, top, right, bottom = (edge / factor for edge in (left, top, right, bottom))
        outer = _outer_box(left, top, right, bottom)
        image = window(image, outer, fill)
        left, right, top, bottom = left - outer[0], right - outer[0], top - outer[1], bottom - outer[1]
    box = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    view = image.resize(size, resampling, box=box)
    if inverse[0, 0] < 0:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if inverse[1, 1] < 0 else view


def _sample(
    image: Image.Image, inverse: np.ndarray, size: tuple[int, int], resampling: Image.Resampling, fill: Fill
) -> Image.Image:
    nearest = resampling == Image.Resampling.NEAREST
    # Source pixels a view pixel, along one side.
    step = math.sqrt(abs(np.linalg.det(inverse[:2, :2])))
    # Means of whole blocks, as a JPEG decoder gives them. The nearest pixel is one of the source itself, but where that
    # is so large that filling it up would take all memory.
    factor = max(1, int(step / (8 if nearest else _BLOCK)))
    image, inverse = _reduced(image, inverse, factor)
    corners = inverse @ np.array([[0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
    (left, top), (right, bottom) = corners[:2].min(1), corners[:2].max(1)
    left, top, right, bottom = _outer_box(left - _REACH, top - _REACH, right + _REACH, bottom + _REACH)
    if fill.mode == "constant":  # Pillow fills what lies beyond the image with it.
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        if left >= right or top >= bottom:
            return Image.new("RGB", size, fill.color)
    image = window(image, (left, top, right, bottom), fill)
    if not nearest and step > _DENSE:
        image = image.filter(ImageFilter.BoxBlur(_BLUR * (step / factor - 1)))
    return image.transform(
        size,
        Image.Transform.AFFINE,
        (translation(-left, -top) @ inverse)[:2].ravel().tolist(),
        resampling if nearest else Image.Resampling.BILINEAR,
        fillcolor=fill.color,
    )


def _reduced(image: Image.Image, inverse: np.ndarray, factor: int) -> tuple[Image.Image, np.ndarray]:
    if factor == 1:
        return image, inverse
    return image.reduce(factor), scaling(1 / factor, 1 / factor) @ inverse


def _outer_box(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    """Returns the smallest box of whole pixels around a box, as far as rounding allows."""
    return (
        math.floor(left + _ROUNDING),
        math.floor(top + _ROUNDING),
        math.ceil(right - _ROUNDING),
        math.ceil(bottom - _ROUNDING),
    )


def _within(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
