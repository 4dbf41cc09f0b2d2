"""A classifier as a function from pixels to logits: what an export is made of, and what it is compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.normalize import normalize
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.verification import TOLERANCE, Reference, draw_views
from jaxtl.models.base import GroupedModel, image_channels
from jaxtl.parallel.backend import compiling_for
from jaxtl.preprocessing import Pixels
from jaxtl.trees import flatten

# Of a model that rounds what its kernels are multiplied with: where a number lies between two steps, its last bit
# decides which it becomes. ViT-Ti is 0.034 off where JAX itself computes images one by one.
_ROUNDING = 0.2
# Images that JAX computes at once.
_BATCH = 8


@dataclass(frozen=True)
class Program:
    """A classifier, with all that an export says of it.

    Attributes:
      name: of the model, as `models.build` takes it.
      module: that computes the logits.
      variables: its parameters and statistics, calibration folded in where that was asked for; kernels are rounded
        where the model is quantized.
      pixels: how its images are prepared.
      classes: the names of the C classes.
      epsilon: of its normalisations, if the name does not say.
      sigmoid: whether each class has a probability of its own, instead of a share of one.
      calibration: what is said of its calibration, as plain values; None if nothing is known.
    """

    name: str
    module: GroupedModel
    variables: Mapping[str, Any]
    pixels: Pixels
    classes: Sequence[str]
    epsilon: float | None = None
    sigmoid: bool = False
    calibration: Mapping[str, Any] | None = None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The height, width and channels of an image."""
        channels = image_channels(self.module, flatten(self.variables))
        return self.pixels.size, self.pixels.size, channels

    @property
    def tolerance(self) -> float:
        """How far the logits of another program may be from those of JAX."""
        return _ROUNDING if self.module.quantized == "w8a8" else TOLERANCE

    def logits(self, images: jax.Array, *, with_pixels: bool) -> jax.Array:
        """Returns the logits [B, C] in float32, every operation in the plain form that other programs know.

        Args:
          images: normalised, float32 [B, S, S, C]; as uint8 where the pixels are normalised within.
          with_pixels: whether they are.
        """
        return self.apply(self.variables, images, with_pixels=with_pixels)

    def apply(self, variables: Any, images: jax.Array, *, with_pixels: bool) -> jax.Array:
        """Returns what `logits` does, of other variables, such as tracers."""
        with compiling_for("none"), jax.default_matmul_precision("highest"):
            images = normalize(images, self.pixels) if with_pixels else images
            logits: Any = self.module.apply_rounded(variables, images, train=False)
            found: jax.Array = jnp.asarray(logits, jnp.float32)
            return found

    def facts(self) -> dict[str, Any]:
        """Returns what whoever runs it must know, as plain values."""
        return {
            "model": self.name,
            "classes": list(self.classes),
            "pixels": self.pixels.to_json(),
            "probabilities": "sigmoid" if self.sigmoid else "softmax",
            "calibration": None if self.calibration is None else dict(self.calibration),
        }

    @cached_property
    def _run(self) -> Any:
        def run(variables: Any, views: jax.Array) -> Any:
            # In the form that this process runs best, as its predictions are computed: another road to the same.
            with jax.default_matmul_precision("highest"):
                return self.module.apply(variables, normalize(views, self.pixels), train=False)

        return jax.jit(run)

    def reference(self, views: np.ndarray | None = None, *, tolerance: float = 0.0) -> Reference:
        """Returns views, uint8 [N, S, S, C], with their logits in JAX; drawn ones where none are given.

        Args:
          views: to compute.
          tolerance: how far those of the export may be from them; at least that of the program.
        """
        size, _, channels = self.shape
        views = draw_views(size, channels) if views is None else views
        found = []
        for start in range(0, len(views), _BATCH):
            batch = views[start : start + _BATCH]
            spare = [(0, min(_BATCH, len(views)) - len(batch)), (0, 0), (0, 0), (0, 0)]
            found.append(np.asarray(self._run(self.variables, np.pad(batch, spare)))[: len(batch)])
        return Reference(views, np.concatenate(found).astype(np.float32), max(tolerance, self.tolerance))


@dataclass(frozen=True)
class Request:
    """How a program is to be written.

    Attributes:
      provenance: where it comes from.
      views: the images to verify it on, uint8 [N, S, S, C].
      origin: what they are, in words.
      dtype: what it computes in: one of the format's `dtypes`.
      with_pixels: whether it takes uint8 and normalises them itself.
      train: images to find scales with, of train, as views; None where they are not here.
      val: images to measure on, views with their labels, int [N], or 0 and 1 [N, K]; None likewise.
    """

    provenance: Provenance
    views: np.ndarray = field(repr=False)
    origin: str = "drawn images"
    dtype: str = "float32"
    with_pixels: bool = False
    train: np.ndarray | None = field(default=None, repr=False)
    val: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)


def in_two_parts(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Returns what a program gives for images, run on two parts of other sizes, as its batch is to be free."""
    cut = max(1, len(images) // 3)
    return np.concatenate([run(part) for part in (images[:cut], images[cut:]) if len(part)])


def normalized(views: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Returns views, uint8 [N, S, S, C], as a program without pixels takes them, in float32."""
    mean, std = (np.asarray(values, np.float32)[None, None, None] for values in (pixels.mean, pixels.std))
    return (views.astype(np.float32) / np.float32(255) - mean) / std
