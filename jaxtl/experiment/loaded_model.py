"""A model with what must stay with it, and how it comes back from the model.json of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import models
from jaxtl.data.normalize import normalize
from jaxtl.models.base import GroupedModel
from jaxtl.preprocessing import Pixels

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Model:
    """A model with what must stay with it.

    Attributes:
      name: as `models.build` takes it.
      module: the Linen module, built for the classes and the image size.
      classes: the class names, in the order of the logits.
      pixels: how its images must be prepared.
      epsilon: of its normalisations.
      several_labels: whether an image may have several of the classes, or none.
    """

    name: str
    module: GroupedModel
    classes: tuple[str, ...]
    pixels: Pixels
    epsilon: float | None
    several_labels: bool = False

    def facts(self) -> dict[str, Any]:
        """Returns what model.json holds."""
        from jaxtl import pretrained  # Whoever predicts with a run does without.

        several = {"several_labels": True} if self.several_labels else {}
        return several | pretrained.native_facts(
            self.name,
            num_classes=len(self.classes),
            epsilon=self.epsilon,
            pixels=self.pixels,
            classes=self.classes,
        )

    def normalize(self, batch: Batch) -> Batch:
        """Returns a batch whose images, uint8 [B, S, S, C], are made what the module takes."""
        return {**batch, "image": normalize(batch["image"], self.pixels)}


def load_model(facts: Mapping[str, Any], *, dtype: Any = jnp.float32) -> Model:
    """Builds the model that a run's model.json describes."""
    pixels = Pixels.from_json(facts["pixels"])
    classes = tuple(facts["classes"])
    module = models.build(
        facts["model"],
        num_classes=len(classes),
        image_size=pixels.size,
        options=models.ModelOptions(dtype=dtype),
        epsilon=facts["epsilon"],
    )
    several = bool(facts.get("several_labels", False))
    return Model(facts["model"], module, classes, pixels, facts["epsilon"], several)
