"""What the pixels must look like for a set of weights: facts that travel with them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtl.errors import UserError

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels per channel, for images in [0, 1]."""
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What brings [0, 1] to [-1, 1], as Google's models expect it."""
CAFFE: tuple[Triple, Triple] = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
"""What gives pixels in 0..255 with ImageNet's mean taken off, as Caffe's models expect them (in the order BGR)."""

INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""How images are resized, and the number by which Pillow and the files of transformers know it."""


@dataclass(frozen=True)
class Processor:
    """What an image processor of transformers does where its file does not say.

    Attributes:
      name: how its name begins, such as "ConvNext".
      interpolation: one of `INTERPOLATIONS`.
      crop_share: the side of its crop by the shorter side before it; None where it does not crop.
      divides_twice: whether it divides by the deviation once more for a classifier, so that its files give the roots.
    """

    name: str
    interpolation: str = "bilinear"
    crop_share: float | None = None
    divides_twice: bool = False


@dataclass(frozen=True)
class Pixels:
    """How an image becomes the model's input.

    Attributes:
      size: side in pixels of the square that the model sees.
      resize: length in pixels that the shorter side gets before the centre crop; equal to `size` where the crop only
        makes the image square.
      mean: subtracted per channel, for images scaled to [0, 1].
      std: divided by per channel, likewise.
      interpolation: one of `INTERPOLATIONS`.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __post_init__(self):
        problems = []
        if not 0 < self.size <= self.resize:
            problems.append(f"size {self.size} and resize {self.resize} must be positive, resize not below size")
        if len(self.mean) != len(self.std) or not self.mean:
            problems.append(f"mean {self.mean} and std {self.std} must have one number per channel")
        if any(value <= 0 for value in self.std):
            problems.append(f"std {self.std} must be positive")
        if self.interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation {self.interpolation!r} must be one of {', '.join(INTERPOLATIONS)}")
        if problems:
            raise UserError("pixel facts: " + "; ".join(problems) + ".")

    def to_json(self) -> dict[str, Any]:
        """Gives the facts as a dictionary of plain values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "Pixels":
        """Takes what `to_json` gave."""
        return cls(
            size=int(facts["size"]),
            resize=int(facts["resize"]),
            mean=tuple(float(value) for value in facts["mean"]),
            std=tuple(float(value) for value in facts["std"]),
            interpolation=str(facts["interpolation"]),
        )

    def at_size(self, size: int) -> "Pixels":
        """Gives the facts for another image size, the ratio of resize to size kept."""
        resize = max(size, round(self.resize * size / self.size))
        return Pixels(size, resize, self.mean, self.std, self.interpolation)


@dataclass(frozen=True)
class PixelDefaults:
    """How weights of one origin expect their pixels, at any size.

    Attributes:
      statistics: mean and standard deviation per channel, for images in [0, 1].
      interpolation: how images are resized.
      crop: side of the centre crop as a share of the shorter side.
    """

    statistics: tuple[Triple, Triple]
    interpolation: str
    crop: float


def resolve_pixels(
    known: Pixels | None,
    *,
    image_size: int,
    resize: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    interpolation: str = "",
    origin: str = "the weights",
) -> Pixels:
    """Joins what the weights say with what the user says; the user wins, field by field.

    Args:
      known: the facts of the weights; None if they do not say.
      image_size: the side in pixels of the images that the model is built for.
      resize: shorter side before the centre crop; 0 keeps the ratio of the weights.
      mean: per channel, for images scaled to [0, 1]; empty to leave it to the weights.
      std: likewise.
      interpolation: one of `INTERPOLATIONS`; empty to leave it to the weights.
      origin: what the error calls the weights.

    Raises:
      UserError: neither the weights nor the user give the mean and the std, or a value is out of range.
    """
    missing = [name for name, given in (("mean", mean), ("std", std)) if not len(given) and known is None]
    if missing:
        raise UserError(
            f"{origin} do not say with which {' and '.join(missing)} their pixels were normalised; "
            f"give mean and std (for images in [0, 1]; "
            f"ImageNet's are {list(IMAGENET[0])} and {list(IMAGENET[1])}, Google's {list(HALF[0])} twice).",
            arguments=["mean", "std"],
        )
    base = known or Pixels(image_size, image_size, tuple(mean), tuple(std), interpolation or "bicubic")
    base = base.at_size(image_size)
    return Pixels(
        size=image_size,
        resize=resize or base.resize,
        mean=tuple(float(value) for value in mean) or base.mean,
        std=tuple(float(value) for value in std) or base.std,
        interpolation=interpolation or base.interpolation,
    )
