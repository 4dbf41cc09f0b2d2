"""What changes the colours of a view, and not where things are."""

import numpy as np
from PIL import Image, ImageEnhance

from jaxtl.data.augment.options import Augmentation

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def jitter(image: Image.Image, rng: np.random.Generator, augmentation: Augmentation) -> Image.Image:
    """Changes brightness, contrast, saturation and hue of an RGB image by drawn amounts, in random order."""
    a = augmentation
    strengths = np.array([a.brightness or a.color_jitter, a.contrast or a.color_jitter, a.saturation or a.color_jitter])
    if not strengths.any() and not a.hue:
        return image
    factors = rng.uniform(np.maximum(0.0, 1 - strengths), 1 + strengths)
    share = rng.uniform(-a.hue, a.hue) if a.hue else 0.0
    for i in rng.permutation(len(_ENHANCERS) + bool(a.hue)):
        if i == len(_ENHANCERS):
            image = shift_hue(image, share)
        elif strengths[i]:
            image = _ENHANCERS[i](image).enhance(float(factors[i]))
    return image


def shift_hue(image: Image.Image, share: float) -> Image.Image:
    """Turns the hues of an RGB image by a share of the colour circle, in steps of 1/255 as Pillow has them.

    >>> shift_hue(Image.new("RGB", (1, 1), (255, 0, 0)), 1 / 3).getpixel((0, 0))
    (0, 255, 0)
    """
    hue, saturation, value = image.convert("HSV").split()
    # Rounding towards 0, as torchvision does; beyond 255 it begins again at 0.
    turned = np.asarray(hue) + np.array(int(share * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def grayscale(image: Image.Image) -> Image.Image:
    """Returns an RGB image without colours: three times its luma (ITU-R 601-2)."""
    return image.convert("L").convert("RGB")
