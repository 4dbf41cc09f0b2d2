"""Random views of an image for training; each is a pure function of the image and a random generator."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxtl.data.augment import affine, color, filters
from jaxtl.data.augment.crops import draw_crop
from jaxtl.data.augment.options import Augmentation
from jaxtl.data.augment.policies import apply_policy
from jaxtl.data.decode import RESAMPLING, eval_view
from jaxtl.preprocessing import Pixels


def train_view(
    image: Image.Image, pixels: Pixels, rng: np.random.Generator, augmentation: Augmentation | None = None
) -> np.ndarray:
    """Draws one random view of an image.

    Crop, flips, rotation, shear, zoom and translation are composed to one affine transformation, and the image is
    resampled once; beyond the crop there is the image itself, as far as it goes, and then the fill. Where a crop and
    flips are all, the crop is taken as in evaluation. What follows works on the view: the policy, then colours, blur,
    noise and the erased box.

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
    fill = _fill(a, pixels)
    view = _geometry(image, pixels, rng, a, fill)
    if a.policy:
        view = apply_policy(view, rng, a, fill)
    view = color.jitter(view, rng, a)
    if a.grayscale and rng.random() < a.grayscale:
        view = color.grayscale(view)
    array = np.asarray(view)
    if a.blur and rng.random() < a.blur:
        array = filters.gaussian_blur(array, rng.uniform(*a.blur_sigma))
    if a.noise:
        array = filters.gaussian_noise(array, a.noise, rng)
    if a.erase and rng.random() < a.erase:
        array = filters.erase(array, rng, area=a.erase_area, color=_in_bytes(a.fill_color or _mean(pixels)))
    return array


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


def _fill(a: Augmentation, pixels: Pixels) -> affine.Fill:
    return affine.Fill(a.fill, _in_bytes(a.fill_color or ((0.0,) * 3 if a.crop == "pad_crop" else _mean(pixels))))


def _mean(pixels: Pixels) -> tuple[float, ...]:
    return pixels.mean if len(pixels.mean) >= 3 else pixels.mean[:1] * 3


def _in_bytes(shares: tuple[float, ...]) -> tuple[int, int, int]:
    red, green, blue = (min(max(round(255 * share), 0), 255) for share in shares[:3])
    return red, green, blue


def _geometry(
    image: Image.Image, pixels: Pixels, rng: np.random.Generator, a: Augmentation, fill: affine.Fill
) -> Image.Image:
    side = pixels.size
    crop = draw_crop(image.size, pixels, rng, a)
    mirrored = rng.random() < a.flip
    upside_down = a.vertical_flip > 0 and rng.random() < a.vertical_flip
    moved = _draw_move(side, rng, a)
    if moved is None:
        view = crop.take(image, pixels, fill)
        if mirrored:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return view.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if upside_down else view
    flips = affine.about((side / 2, side / 2), affine.scaling(1 - 2 * mirrored, 1 - 2 * upside_down))
    matrix = moved @ flips @ crop.matrix(image.size, side)
    return affine.warp(image, matrix, (side, side), resampling=RESAMPLING[pixels.interpolation], fill=fill)


def _draw_move(side: int, rng: np.random.Generator, a: Augmentation) -> np.ndarray | None:
    """Draws what moves the content of a view about its centre, [3, 3]; None where nothing can."""
    if not (a.rotate or a.shear or a.zoom or a.translate):
        return None
    # A number is drawn only for what is asked for.
    angle = rng.uniform(-a.rotate, a.rotate) if a.rotate else 0.0
    slope = math.tan(math.radians(rng.uniform(-a.shear, a.shear))) if a.shear else 0.0
    factor = rng.uniform(1 - a.zoom, 1 + a.zoom) if a.zoom else 1.0
    x, y = side * rng.uniform(-a.translate, a.translate, size=2) if a.translate else (0.0, 0.0)
    turned = affine.rotation(angle) @ affine.scaling(factor, factor) @ affine.shearing(slope)
    return affine.translation(x, y) @ affine.about((side / 2, side / 2), turned)
