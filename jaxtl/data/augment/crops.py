"""Which part of an image a view shows, before anything else happens to it."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxtl.data.augment.affine import Fill, scaling, translation, window
from jaxtl.data.augment.options import Augmentation
from jaxtl.data.decode import RESAMPLING, central_square, eval_view, size_with_shorter
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels


@dataclass(frozen=True)
class Crop:
    """A box of an image.

    Attributes:
      whole: width and height in pixels that the whole image gets first; None leaves it as it is.
      box: left, top, right and bottom in pixels of that; it becomes the view.
      pad: pixels by which the view of evaluation is padded before a square of it is taken; -1 where that is not done.
      offset: left and top of that square, in the padded view.
    """

    whole: tuple[int, int] | None
    box: tuple[int, int, int, int]
    pad: int = -1
    offset: tuple[int, int] = (0, 0)

    def matrix(self, image_size: tuple[int, int], side: int) -> np.ndarray:
        """Returns what maps points of an image of that width and height to those of the view; see `affine`."""
        left, top, right, bottom = self.box
        width, height = self.whole or image_size
        to_whole = scaling(width / image_size[0], height / image_size[1])
        return scaling(side / (right - left), side / (bottom - top)) @ translation(-left, -top) @ to_whole

    def take(self, image: Image.Image, pixels: Pixels, fill: Fill) -> Image.Image:
        """Returns the view of an RGB image where nothing but the crop is to happen to its geometry."""
        resampling, side = RESAMPLING[pixels.interpolation], pixels.size
        if self.pad >= 0:
            left, top = (place - self.pad for place in self.offset)
            return window(Image.fromarray(eval_view(image, pixels)), (left, top, left + side, top + side), fill)
        if self.whole is None:
            return image.resize((side, side), resampling, box=self.box)
        whole = image if self.whole == image.size else image.resize(self.whole, resampling)
        return whole.crop(self.box)


def draw_crop(size: tuple[int, int], pixels: Pixels, rng: np.random.Generator, augmentation: Augmentation) -> Crop:
    """Draws the crop of one view of an image of a width and height in pixels.

    Raises:
      UserError: `resize` is below the size of the crop.
    """
    a, side = augmentation, pixels.size
    if a.crop == "random_resized":
        return Crop(None, random_box(*size, rng, scale=a.scale, ratio=a.ratio))
    if a.crop == "resize_crop":
        shorter = a.resize or round(side * 8 / 7)
        if shorter < side:
            raise UserError(
                f"resize is {a.resize} pixels, below the crop's {side}; raise it, or give 0",
                arguments=["resize"],
            )
        whole = size_with_shorter(size, shorter)
        left, top = int(rng.integers(whole[0] - side + 1)), int(rng.integers(whole[1] - side + 1))
        return Crop(whole, (left, top, left + side, top + side))
    whole = size_with_shorter(size, pixels.resize)
    left, top = central_square(whole, side)
    if a.crop == "none":
        return Crop(whole, (left, top, left + side, top + side))
    offset = int(rng.integers(2 * a.pad + 1)), int(rng.integers(2 * a.pad + 1))
    left, top = left + offset[0] - a.pad, top + offset[1] - a.pad
    return Crop(whole, (left, top, left + side, top + side), a.pad, offset)


def random_box(
    width: int, height: int, rng: np.random.Generator, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a box (left, top, right, bottom) of random area and aspect inside an image, in pixels."""
    box = try_box(width, height, rng, scale=scale, ratio=ratio)
    if box is not None:
        return box
    # The largest central box that keeps the aspect: a thin image may admit no box of that area.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def try_box(
    width: int, height: int, rng: np.random.Generator, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int] | None:
    """Draws such a box, or None where none of ten fits."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return None
