"""Several views of an image for one prediction: test-time augmentation by flips, crops and scales."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from jaxtl.data.decode import RESAMPLING, central_square, resize_shorter
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

CROPS = (1, 5)


@dataclass(frozen=True)
class PredictionViews:
    """Which views of an image are predicted; the first is always that of evaluation.

    Attributes:
      flip: whether each view comes mirrored, too.
      crops: 1 for the centre alone, 5 for the four corners as well.
      scales: factors of the shorter side before the crop, not below 1; 1 is always among them.
    """

    flip: bool = False
    crops: int = 1
    scales: tuple[float, ...] = ()

    def __post_init__(self):
        if self.crops not in CROPS:
            raise UserError(f"crops is {self.crops}, but it must be 1 or 5: the centre, or the corners as well.")
        wrong = [scale for scale in self.scales if not 1 <= scale <= 4]
        if wrong:
            raise UserError(f"a scale is {wrong[0]:g}, but scales must be from 1 to 4: factors of the shorter side.")

    @property
    def count(self) -> int:
        """The number of views."""
        return self.crops * len(self._factors()) * (1 + self.flip)

    def _factors(self) -> tuple[float, ...]:
        return (1.0, *(scale for scale in dict.fromkeys(self.scales) if scale != 1))

    def __call__(self, image: Image.Image, pixels: Pixels) -> np.ndarray:
        """Returns the views of an RGB image: uint8 [V, S, S, 3]."""
        side, views = pixels.size, list[np.ndarray]()
        for factor in self._factors():
            resized = resize_shorter(image, round(pixels.resize * factor), RESAMPLING[pixels.interpolation])
            right, bottom = (length - side for length in resized.size)
            places = [central_square(resized.size, side)]
            if self.crops == 5:
                places += [(0, 0), (right, 0), (0, bottom), (right, bottom)]
            views += [np.asarray(resized.crop((x, y, x + side, y + side))) for x, y in places]
        mirrored = [view[:, ::-1] for view in views] if self.flip else []
        return np.stack([*views, *mirrored])

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return {"flip": self.flip, "crops": self.crops, "scales": list(self.scales)}

    def in_words(self) -> str:
        """Says what the views are."""
        factors = ", ".join(f"{factor:g}" for factor in self._factors())
        crops = "the centre" if self.crops == 1 else "the centre and the corners"
        mirrored = ", each mirrored too" if self.flip else ""
        return f"{self.count} views an image: {crops} at the scales {factors}{mirrored}"
