"""RandAugment, TrivialAugment and AutoAugment: operations drawn from a table, with magnitudes.

They work on the view, after crop and flips, one operation after the other as in the papers: colours and geometry
alternate, so that what is filled in by one is seen by the next.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxtl.data.augment import affine
from jaxtl.data.augment.options import Augmentation

# Of RandAugment and TrivialAugment; AutoAugment counts ten.
_BINS, _BINS_OF_AUTOAUGMENT = 31, 10

# The best policies that AutoAugment found for ImageNet (its appendix A): pairs of an operation, its probability and the
# bin of its magnitude.
AUTOAUGMENT = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
_NONE = np.zeros(1)

# Operation -> its magnitudes, and whether its sign is drawn. One without magnitudes has a single one, 0.
Space = dict[str, tuple[np.ndarray, bool]]


def space(policy: str, side: int) -> Space:
    """Returns the operations of a policy and their magnitudes for views of a side in pixels.

    Shears are pixels sideways for each pixel of height, translations pixels, rotations degrees. Brightness, colour,
    contrast and sharpness are scaled by 1 + the magnitude; posterising keeps that many bits, and solarising inverts
    what is not below it.
    """
    if policy == "trivialaugment":
        # "Wide": a third of the circle and images that fade away.
        return _space(_BINS, shear=0.99, shift=32.0, turn=135.0, factor=0.99, bits=6)
    shift = 150.0 / 331.0 * side
    if policy == "randaugment":
        return _space(_BINS, shear=0.3, shift=shift, turn=30.0, factor=0.9, bits=4)
    found = _space(_BINS_OF_AUTOAUGMENT, shear=0.3, shift=shift, turn=30.0, factor=0.9, bits=4)
    del found["Identity"]
    return {**found, "Invert": (_NONE, False)}


def _space(bins: int, *, shear: float, shift: float, turn: float, factor: float, bits: int) -> Space:
    def up_to(highest: float) -> tuple[np.ndarray, bool]:
        return np.linspace(0.0, highest, bins), True

    return {
        "Identity": (_NONE, False),
        "ShearX": up_to(shear),
        "ShearY": up_to(shear),
        "TranslateX": up_to(shift),
        "TranslateY": up_to(shift),
        "Rotate": up_to(turn),
        "Brightness": up_to(factor),
        "Color": up_to(factor),
        "Contrast": up_to(factor),
        "Sharpness": up_to(factor),
        "Posterize": (8 - np.rint(np.arange(bins) / ((bins - 1) / bits)), False),
        "Solarize": (np.linspace(255.0, 0.0, bins), False),
        "AutoContrast": (_NONE, False),
        "Equalize": (_NONE, False),
    }


def apply_policy(
    view: Image.Image, rng: np.random.Generator, augmentation: Augmentation, fill: affine.Fill
) -> Image.Image:
    """Applies the operations that `augmentation.policy` draws to a square RGB view."""
    a = augmentation
    table = space(a.policy, view.width)
    names = list(table)
    if a.policy == "autoaugment":
        for name, probability, level in AUTOAUGMENT[rng.integers(len(AUTOAUGMENT))]:
            # Both are drawn in any case: what follows does not depend on whether the operation is done.
            chance, sign = rng.random(), _sign(rng)
            if chance < probability:
                view = _apply(view, table, name, level, sign, fill)
        return view
    trivial = a.policy == "trivialaugment"
    for _ in range(1 if trivial else a.num_ops):
        name = names[rng.integers(len(names))]
        level = int(rng.integers(_BINS)) if trivial else a.magnitude
        view = _apply(view, table, name, level, _sign(rng), fill)
    return view


def _sign(rng: np.random.Generator) -> int:
    return 1 - 2 * int(rng.integers(2))


def _apply(view: Image.Image, table: Space, name: str, level: int, sign: int, fill: affine.Fill) -> Image.Image:
    magnitudes, signed = table[name]
    magnitude = float(magnitudes[min(level, len(magnitudes) - 1)])
    return apply_operation(view, name, sign * magnitude if signed else magnitude, fill)


def apply_operation(view: Image.Image, name: str, magnitude: float, fill: affine.Fill) -> Image.Image:
    """Applies one operation of `space` to an RGB image; geometry is sampled bilinearly."""
    if name in _GEOMETRY:
        matrix = _GEOMETRY[name](magnitude, view.size)
        return affine.warp(view, matrix, view.size, resampling=Image.Resampling.BILINEAR, fill=fill)
    return _COLOR[name](view, magnitude)


# Papers and their programs shear about the upper left corner, and move by whole pixels.
_GEOMETRY: dict[str, Callable[[float, tuple[int, int]], np.ndarray]] = {
    "ShearX": lambda m, size: affine.shearing(-m),
    "ShearY": lambda m, size: affine.shearing(0.0, -m),
    "TranslateX": lambda m, size: affine.translation(int(m), 0),
    "TranslateY": lambda m, size: affine.translation(0, int(m)),
    "Rotate": lambda m, size: affine.about((size[0] / 2, size[1] / 2), affine.rotation(m)),
}
_COLOR: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda view, m: view,
    "Brightness": lambda view, m: ImageEnhance.Brightness(view).enhance(1 + m),
    "Color": lambda view, m: ImageEnhance.Color(view).enhance(1 + m),
    "Contrast": lambda view, m: ImageEnhance.Contrast(view).enhance(1 + m),
    "Sharpness": lambda view, m: ImageEnhance.Sharpness(view).enhance(1 + m),
    "Posterize": lambda view, m: ImageOps.posterize(view, int(m)),
    # Pillow asks for a whole number, and inverts what is not below the threshold.
    "Solarize": lambda view, m: ImageOps.solarize(view, math.ceil(m)),
    "AutoContrast": lambda view, m: ImageOps.autocontrast(view),
    "Equalize": lambda view, m: ImageOps.equalize(view),
    "Invert": lambda view, m: ImageOps.invert(view),
}
