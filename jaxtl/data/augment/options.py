"""What the views of training images may differ in, and which values that may have."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jaxtl.data.augment.affine import FILLS, FillMode
from jaxtl.errors import UserError, nearest
from jaxtl.preprocessing import Pixels

Crop = Literal["random_resized", "resize_crop", "pad_crop", "none"]
CROPS = ("random_resized", "resize_crop", "pad_crop", "none")
Policy = Literal["", "randaugment", "trivialaugment", "autoaugment"]
POLICIES = ("", "randaugment", "trivialaugment", "autoaugment")
# Fields that draw something wherever they are not 0 or "".
_ACTIVE = (
    *("flip", "vertical_flip", "rotate", "shear", "zoom", "translate"),
    *("color_jitter", "brightness", "contrast", "saturation", "hue", "grayscale"),
    *("blur", "noise", "erase", "policy"),
)


@dataclass(frozen=True)
class Augmentation:
    """What random views of an image may differ in; the order is that in which it is done.

    Attributes:
      crop: "random_resized" takes a random box of a random area and aspect and resizes it (Szegedy et al., 2015,
        arXiv:1409.4842); "resize_crop" resizes the shorter side and takes a random square; "pad_crop" takes the view
        of evaluation, pads it and takes a random square (He et al., 2015, arXiv:1512.03385); "none" is the view of
        evaluation.
      scale: range of the box's area as a share of the image's ("random_resized").
      ratio: range of the box's width by its height, drawn evenly in its logarithm ("random_resized").
      resize: shorter side in pixels before the crop ("resize_crop"); 0 is 8/7 of the crop, as 256 is of 224.
      pad: pixels added on each side ("pad_crop").
      flip: probability of a mirror image.
      color_jitter: j; brightness, contrast and saturation are scaled by factors in [1 - j, 1 + j], in random order.
      vertical_flip: probability of a view upside down.
      rotate: degrees; the angle lies in [-rotate, rotate]. As in torchvision's RandomRotation(degrees); the factor of
        Keras' RandomRotation is a share of the circle, so 0.1 there is 36 here.
      shear: degrees; the horizontal shear lies in [-shear, shear]. As in torchvision's RandomAffine(shear=degrees) and
        the shear_range of Keras' ImageDataGenerator.
      zoom: z; the content is scaled by a factor in [1 - z, 1 + z], larger above 1. As in torchvision's
        RandomAffine(scale=(1 - z, 1 + z)) and the zoom_range of ImageDataGenerator, which draws one for each axis; a
        negative factor of Keras' RandomZoom enlarges.
      translate: t; the content moves by a share of the view's side in [-t, t], along both axes. As in torchvision's
        RandomAffine(translate=(t, t)), which rounds to pixels, and Keras' RandomTranslation(t, t).
      fill: what lies beyond the image; see `affine.Fill`.
      fill_color: of the fill "constant" and of `erase`: three numbers for images in [0, 1]. () is the mean of the
        pixels' normalisation, which the model sees as 0, but black for the fill of "pad_crop".
      brightness: like `color_jitter`, of the brightness alone; 0 leaves it to `color_jitter`.
      contrast: likewise.
      saturation: likewise.
      hue: h; hues are turned by a share of the circle in [-h, h], as in torchvision's ColorJitter(hue=h).
      grayscale: probability of a view without colours.
      blur: probability of a Gaussian blur.
      blur_sigma: range of its standard deviation in pixels of the view, drawn evenly.
      noise: standard deviation of Gaussian noise, for images in [0, 1].
      erase: probability that a box is overwritten with `fill_color` (Zhong et al., 2017, arXiv:1708.04896).
      erase_area: range of its area as a share of the view.
      policy: "randaugment" (Cubuk et al., 2019, arXiv:1909.13719), "trivialaugment" (its wide space; Müller and Hutter,
        2021, arXiv:2103.10158), "autoaugment" (for ImageNet; Cubuk et al., 2018, arXiv:1805.09501) or "".
      num_ops: operations that "randaugment" draws.
      magnitude: of "randaugment", from 0 to 30.
    """

    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.25, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: int = 0
    pad: int = 4
    flip: float = 0.5
    color_jitter: float = 0.0
    vertical_flip: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    translate: float = 0.0
    fill: FillMode = "constant"
    fill_color: tuple[float, ...] = ()
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.33)
    policy: Policy = ""
    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self):
        if found := problems(asdict(self)):
            raise UserError("\n".join(found))

    @property
    def is_plain(self) -> bool:
        """Whether every view of an image is that of evaluation."""
        return self.crop == "none" and not any(getattr(self, name) for name in _ACTIVE)

    def min_side(self, pixels: Pixels) -> int:
        """Returns the shorter side in pixels down to which images may be decoded before views of them are drawn.

        A large photograph is decoded in a third of the time if it need not be whole. The smallest box that a view may
        take, enlarged as far as `zoom` goes, still has a pixel for each of the view's.
        """
        smallest = self.scale[0] if self.crop == "random_resized" else 1.0
        box = math.ceil(pixels.size / math.sqrt(smallest) * (1 + self.zoom))
        return max(2 * pixels.resize, 2 * self.resize, box)


def problems(values: Mapping[str, Any]) -> list[str]:
    """Returns one line for each field whose value is out of range, "flip is 2, but it must be ...".

    Args:
      values: of each field of `Augmentation`, of the right kind.
    """
    found = []
    for names, allowed, test in _ALLOWED:
        for name in names:
            if not test(values[name]):
                found.append(f"{name} is {values[name]!r}, but it must be {allowed}.")
    for name, choices in (("crop", CROPS), ("fill", FILLS), ("policy", POLICIES)):
        if values[name] not in choices:
            found.append(not_among(name, values[name], choices))
    return found


def not_among(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns the line for a value that is none of the choices, with the nearest of them."""
    near = nearest(value, [choice for choice in choices if choice])
    meant = f"; did you mean {near!r}?" if near else "."
    return f"{name} is {value!r}, but it must be one of: {', '.join(map(repr, choices))}{meant}"


def _is_range(value: Any) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


_ALLOWED: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (("scale", "ratio", "blur_sigma"), "(low, high), both positive", _is_range),
    (("erase_area",), "(low, high), two shares above 0 and at most 1", lambda v: _is_range(v) and v[1] <= 1),
    (("resize", "pad"), "0 or more", lambda v: v >= 0),
    (
        ("flip", "vertical_flip", "grayscale", "blur", "erase"),
        "a probability, between 0 and 1",
        lambda v: 0 <= v <= 1,
    ),
    (
        ("color_jitter", "brightness", "contrast", "saturation", "translate", "noise"),
        "between 0 and 1",
        lambda v: 0 <= v <= 1,
    ),
    (("hue",), "a share of the colour circle between 0 and 0.5", lambda v: 0 <= v <= 0.5),
    (("rotate",), "degrees between 0 and 180", lambda v: 0 <= v <= 180),
    (("shear",), "degrees between 0 and 60", lambda v: 0 <= v <= 60),
    (("zoom",), "at least 0 and below 1: images are scaled by 1 - zoom to 1 + zoom", lambda v: 0 <= v < 1),
    (
        ("fill_color",),
        "() or three numbers between 0 and 1",
        lambda v: len(v) in (0, 3) and all(0 <= number <= 1 for number in v),
    ),
    (("num_ops",), "1 or more", lambda v: v >= 1),
    (("magnitude",), "a whole number from 0 to 30", lambda v: 0 <= v <= 30),
)
