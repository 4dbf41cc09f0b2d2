"""Random views of an image for training; each is a pure function of the image and a random generator."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxtl.data.decode import RESAMPLING, eval_view, resize_shorter
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

Crop = Literal["random_resized", "resize_crop", "pad_crop", "none"]
CROPS = ("random_resized", "resize_crop", "pad_crop", "none")


@dataclass(frozen=True)
class Augmentation:
    """What random views of an image may differ in.

    Attributes:
      crop: "random_resized" takes a random box of a random area and aspect and resizes it (Szegedy et al., 2015,
        arXiv:1409.4842); "resize_crop" resizes the shorter side and takes a random square; "pad_crop" takes the view
        of evaluation, pads it with black and takes a random square (He et al., 2015, arXiv:1512.03385); "none" is the
        view of evaluation.
      scale: range of the box's area as a share of the image's ("random_resized").
      ratio: range of the box's width by its height, drawn evenly in its logarithm ("random_resized").
      resize: shorter side in pixels before the crop ("resize_crop"); 0 is 8/7 of the crop, as 256 is of 224.
      pad: pixels added on each side ("pad_crop").
      flip: probability of a mirror image.
      color_jitter: j; brightness, contrast and saturation are scaled by factors in [1 - j, 1 + j], in random order.
    """

    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: int = 0
    pad: int = 4
    flip: float = 0.5
    color_jitter: float = 0.0

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r} is none of {', '.join(CROPS)}")

    @property
    def is_plain(self) -> bool:
        """Whether every view of an image is that of evaluation."""
        return self.crop == "none" and not self.flip and not self.color_jitter

    def min_side(self, pixels: Pixels) -> int:
        """Returns the shorter side in pixels down to which images may be decoded before views of them are drawn.

        A large photograph is decoded in a third of the time if it need not be whole. The smallest box that a view may
        take still has a pixel for each of the view's.
        """
        smallest = self.scale[0] if self.crop == "random_resized" else 1.0
        return max(2 * pixels.resize, 2 * self.resize, math.ceil(pixels.size / math.sqrt(smallest)))


def train_view(
    image: Image.Image, pixels: Pixels, rng: np.random.Generator, augmentation: Augmentation | None = None
) -> np.ndarray:
    """Draws one random view of an image.

    Args:
      image: RGB.
      pixels: the size and the interpolation that the weights were trained with.
      rng: source of all randomness; the same state gives the same view.
      augmentation: what is random; the defaults of `Augmentation` if None.

    Returns:
      uint8 [S, S, 3] with S = `pixels.size`.

    Raises:
      UserError: `resize` is below the size of the crop.
    """
    a = augmentation or Augmentation()
    resampling = RESAMPLING[pixels.interpolation]
    if a.crop == "random_resized":
        box = random_box(image.width, image.height, rng, scale=a.scale, ratio=a.ratio)
        view = image.resize((pixels.size, pixels.size), resampling, box=box)
    elif a.crop == "resize_crop":
        shorter = a.resize or round(pixels.size * 8 / 7)
        if shorter < pixels.size:
            raise UserError(
                f"resize is {a.resize} pixels, below the crop's {pixels.size}; raise it, or give 0",
                arguments=["resize"],
            )
        view = _random_square(resize_shorter(image, shorter, resampling), pixels.size, rng)
    elif a.crop == "pad_crop":
        view = _random_square(ImageOps.expand(Image.fromarray(eval_view(image, pixels)), a.pad), pixels.size, rng)
    else:
        view = Image.fromarray(eval_view(image, pixels))
    if rng.random() < a.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if a.color_jitter:
        view = _jitter(view, rng, a.color_jitter)
    return np.asarray(view)


@dataclass(frozen=True)
class RandomView:
    """A `train_view` as `train_batches` calls it; unlike a lambda, a process can take it over."""

    pixels: Pixels
    augmentation: Augmentation

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Returns the view that `rng` draws of an RGB image: uint8 [S, S, 3]."""
        return train_view(image, self.pixels, rng, self.augmentation)


@dataclass(frozen=True)
class FixedView:
    """The view of evaluation where one for training is expected: it draws nothing."""

    pixels: Pixels

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Returns the view of an RGB image: uint8 [S, S, 3]."""
        del rng
        return eval_view(image, self.pixels)


def random_box(
    width: int, height: int, rng: np.random.Generator, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a box (left, top, right, bottom) of random area and aspect inside an image, in pixels."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    # Ten draws, then the largest central box that keeps the aspect: a thin image may admit no box of that area.
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _random_square(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    return image.crop((left, top, left + side, top + side))


def _jitter(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=len(enhancers))
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(float(factors[i]))
    return image
