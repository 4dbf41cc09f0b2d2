"""Images that show little: blank, dark, blurred, of an odd size; and classes with few images."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl.audit.looks import Looks

BLANK = "blank"
"""The problem of an image of next to one colour."""

# Of 960 photographs of flowers, the lowest contrast is 0.09, and the darkest reaches a light of 0.6; one is less
# sharp than the limit, and all of 48 are after a Gaussian blur of 3 pixels in 224.
_BLANK_CONTRAST = 0.02
_DARK = 0.3
_BLURRED = 0.1
# Sizes are odd by what is usual in the set: so many times longer or shorter, by its shorter side, or slimmer.
_SIDES = 4
_SLIMNESS = 2.5
# Classes have few images that have fewer than this many, or than this share of the median.
_FEW = 10
_FEW_SHARE = 0.1


def find_poor(looks: Mapping[int, Looks]) -> list[tuple[int, str, str]]:
    """Returns what is poor: (index, "blank" | "dark" | "blurred" | "odd size", detail); a blank image is no other."""
    found = []
    for i, each in looks.items():
        if each.contrast < _BLANK_CONTRAST:
            found.append((i, BLANK, f"contrast {each.contrast:.3f}, of 0.5 at most"))
        elif each.bright < _DARK:
            found.append((i, "dark", f"99 % of it is below {each.bright:.2f} of full light"))
        elif each.sharpness < _BLURRED:
            found.append(
                (i, "blurred", f"sharpness {each.sharpness:.3f}; the median is {_median_sharpness(looks):.2f}")
            )
    return found + _odd_sizes(looks)


def _median_sharpness(looks: Mapping[int, Looks]) -> float:
    return float(np.median([each.sharpness for each in looks.values()]))


def _odd_sizes(looks: Mapping[int, Looks]) -> list[tuple[int, str, str]]:
    if not looks:
        return []
    sizes = np.array([each.size for each in looks.values()], float)
    short, slim = sizes.min(1), sizes.max(1) / sizes.min(1)
    usual, usual_slim = float(np.median(short)), float(np.median(slim))
    odd = (short * _SIDES < usual) | (short > usual * _SIDES) | (slim > usual_slim * _SLIMNESS)
    return [
        (i, "odd size", f"{looks[i].size[0]} x {looks[i].size[1]} pixels; the usual shorter side is {usual:.0f}")
        for i, strange in zip(looks, odd, strict=True)
        if strange
    ]


def few_images(counts: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Returns the classes with few images and their numbers, the rarest first.

    Args:
      counts: images of each class, int [C].
      classes: their names.
    """
    limit = max(_FEW, _FEW_SHARE * float(np.median(counts)))
    order = np.argsort(counts, kind="stable")
    return {classes[i]: int(counts[i]) for i in order if counts[i] < limit}
