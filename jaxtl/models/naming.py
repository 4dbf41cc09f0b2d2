"""How other programs name and lay out the arrays of a model: tables that are read in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtl.preprocessing import Triple

Rows = tuple[tuple[str, str, str], ...]
"""Rows (theirs, ours, kind): the path of a layer in their files, its path in our variables, and what it is.

`{i}` in both paths stands for the same number, `{i+1}` for that number plus one. The kinds are those of
`jaxtl.weights.rename.LEAVES`: "dense", "conv", "norm", "batchnorm", "array" and so on.
"""


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


# Compared by identity: each convention exists once.
@dataclass(frozen=True, eq=False)
class Naming:
    """One convention for names, and what a file in that convention says about the function it holds.

    Attributes:
      name: the name shown to users, such as "timm".
      layout: whose leaf names and axis order the arrays have: "torch", "flax" or "keras".
      rows: the rename rules.
      prefixes: what may stand before every name; the first one is written on export.
      fields: fields of the model that these files imply, such as its epsilon.
      pixels: how these files expect their pixels; None if they leave it open.
      unused: patterns of arrays that are no part of the classifier and are left out, each listed in the passport.
      positions: how this convention's own code resizes position embeddings: "bicubic" or "antialiased".
    """

    name: str
    layout: str
    rows: Rows
    prefixes: tuple[str, ...] = ("",)
    fields: Mapping[str, Any] = field(default_factory=dict)
    pixels: PixelDefaults | None = None
    unused: tuple[str, ...] = ()
    positions: str = "antialiased"
