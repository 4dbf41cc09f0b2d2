"""Several models as one: each sees an image at its own size and preprocessing, and what they say is put together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxtl.data import Dataset, Reading, eval_batches
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.data.normalize import normalize
from jaxtl.evaluate.combining import Combination
from jaxtl.parallel.fetch import one_behind
from jaxtl.preprocessing import Pixels


@dataclass(frozen=True)
class Network:
    """A model of an ensemble.

    Attributes:
      name: short, and its own.
      module: a Linen module called as module.apply(variables, images, train=False).
      variables: parameters and collections.
      pixels: how its images must be prepared.
      classes: the names of its classes, in the order of its logits.
    """

    name: str
    module: Any
    variables: Mapping[str, Any]
    pixels: Pixels
    classes: tuple[str, ...]

    def backbone(self) -> "Network":
        """Returns the network without its head, which gives features [B, D]."""
        return replace(self, module=self.module.clone(num_classes=0))


@dataclass(frozen=True)
class PackedView:
    """The views of an image for all models, as one array of bytes: models that prepare it alike share them.

    Attributes:
      pixels: the ways to prepare an image, each once.
      views: which views of it each gets.
    """

    pixels: tuple[Pixels, ...]
    views: PredictionViews

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns the views of an RGB image: uint8 [D]."""
        return np.concatenate([self.views(image, pixels).ravel() for pixels in self.pixels])

    def unpack(self, packed: jax.Array) -> dict[Pixels, jax.Array]:
        """Returns the images of each way to prepare them, uint8 [B * V, S, S, 3], of packed ones [B, D]."""
        found, first = {}, 0
        for pixels in self.pixels:
            size = self.views.count * pixels.size**2 * 3
            found[pixels] = packed[:, first : first + size].reshape(-1, pixels.size, pixels.size, 3)
            first += size
        return found


@dataclass(frozen=True)
class Ensemble:
    """Models of the same classes, and what is made of their logits.

    Attributes:
      networks: at least one.
      views: which views of an image each predicts; their logits are averaged.
      combination: what is made of the logits of all.
    """

    networks: Sequence[Network]
    views: PredictionViews
    combination: Combination

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the first model."""
        return self.networks[0].classes

    @cached_property
    def view(self) -> PackedView:
        """What makes of an image what `logits_of_views` takes."""
        return PackedView(tuple(dict.fromkeys(network.pixels for network in self.networks)), self.views)

    def apply(self, variables: Sequence[Any], packed: jax.Array) -> jax.Array:
        """Returns the logits of all models and views [M, B, V, C] of packed views, by the variables of each model."""
        orders = [np.array([network.classes.index(name) for name in self.classes]) for network in self.networks]
        given = self._of_each(variables, packed)
        return jnp.stack([each[..., order] for each, order in zip(given, orders, strict=True)])

    def features(self, variables: Sequence[Any], packed: jax.Array) -> jax.Array:
        """Returns the features of backbones, one after another [B, D], each the mean over the views of an image."""
        return jnp.concatenate([each.mean(1) for each in self._of_each(variables, packed)], axis=-1)

    def _of_each(self, variables: Sequence[Any], packed: jax.Array) -> list[jax.Array]:
        """Returns what each network gives for packed views, float32 [B, V, its width]."""
        images, found = self.view.unpack(packed), []
        for network, own in zip(self.networks, variables, strict=True):
            prepared = normalize(images[network.pixels], network.pixels)
            given = jnp.asarray(network.module.apply(own, prepared, train=False), jnp.float32)
            found.append(given.reshape(len(packed), self.views.count, -1))
        return found

    @cached_property
    def _apply(self) -> Any:
        apply, variables = jax.jit(self.apply), [jax.device_put(network.variables) for network in self.networks]
        return lambda packed: apply(variables, packed)

    def logits_of_views(self, packed: np.ndarray) -> np.ndarray:
        """Returns the logits of all models and views [M, B, V, C], float32, of packed views uint8 [B, D]."""
        return np.asarray(self._apply(packed))

    def __call__(self, packed: np.ndarray) -> np.ndarray:
        """Returns the logits of the ensemble [B, C] of packed views uint8 [B, D]."""
        return self.combination(self.logits_of_views(packed).mean(2))

    def logits_of_dataset(self, dataset: Dataset, *, batch_size: int, reading: Reading) -> np.ndarray:
        """Returns the logits of all models and views [M, N, V, C] of a data set, in its order."""

        def batches() -> Iterator[tuple[np.ndarray, Any]]:
            for batch in eval_batches(dataset, batch_size=batch_size, view=self.view, reading=reading):
                yield batch["mask"] > 0, self._apply(batch["image"])

        return np.concatenate([np.asarray(logits)[:, mask] for mask, logits in one_behind(batches())], axis=1)
