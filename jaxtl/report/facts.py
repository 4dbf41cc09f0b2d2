"""What is known of a run, as plain values: what a page of it is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from jaxtl.evaluate.details import probabilities_of, to_probabilities
from jaxtl.evaluate.multilabel import log_losses
from jaxtl.evaluate.predictions import Predictions


@dataclass(frozen=True)
class Classified:
    """What a model said of the images of a split.

    Attributes:
      names: of the images [N].
      labels: class indices [N]; of several labels an image 0 and 1 [N, C].
      predicted: the class with the highest logit [N]: sigmoids of different logits may both be 1.
      probabilities: of the classes [N, C].
      losses: of several labels an image, the log loss of each image [N].
    """

    names: Sequence[str]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def several(self) -> bool:
        """Whether an image has several labels, or none, instead of one."""
        return self.labels.ndim == 2


@dataclass(frozen=True)
class Neighbour:
    """A training image near to another one.

    Attributes:
      name: of the image.
      actual: its class.
      picture: the image; None where it cannot be had.
    """

    name: str
    actual: str
    picture: Image.Image | None


def no_picture(split: str, index: int) -> Image.Image | None:
    """Returns no picture of any image."""
    return None


@dataclass(frozen=True)
class Facts:
    """What is known of a run; what it has not come to yet is empty.

    Attributes:
      name: of the run.
      workdir: where it lies.
      state: "finished", "training" while its process lives, "stopped", or "evaluation": of the eval command.
      source: of the images.
      changed: the values of its config that are not the defaults, by key.
      model: as model.json holds it.
      results: as results.json holds it.
      weights: as weights.json holds it.
      lines: of metrics.jsonl.
      groups: as groups.json holds it.
      data: as data.json holds it.
      environment: as environment.json holds it.
      predictions: of each split that has some.
      picture: (split, index of the image) -> the image; None where it cannot be had.
      sizes: the sizes of the images, in words.
      overlays: name of an image -> what speaks for its predicted class, over the image: uint8 [S, S, 3].
      neighbours: name of an image -> the training images that are most like it to the model, the nearest first.
      notes: what the reader should know of the page itself.
    """

    name: str
    workdir: str
    state: str
    source: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[Mapping[str, Any]] = ()
    groups: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    predictions: Mapping[str, Classified] = field(default_factory=dict)
    picture: Callable[[str, int], Image.Image | None] = no_picture
    sizes: str = ""
    overlays: Mapping[str, np.ndarray] = field(default_factory=dict)
    neighbours: Mapping[str, Sequence["Neighbour"]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.results.get("classes") or self.model.get("classes") or ())

    @property
    def split(self) -> str:
        """The split that the page looks at most: test, else val, else ""."""
        return next((split for split in ("test", "val") if split in self.results), "")

    def title(self, split: str) -> str:
        """Returns what a split is called: where eval measured, which writes "test", the one that was measured."""
        return str(self.results.get("split", split)) if self.state == "evaluation" else split

    @property
    def several(self) -> bool:
        """Whether an image has several labels, or none, instead of one."""
        return "hamming_loss" in self.metrics or bool(self.model.get("several_labels"))

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics on that split."""
        found: Mapping[str, Any] = self.results.get(self.split, {})
        return found


def classified(kept: Predictions, *, sigmoid: bool) -> Classified:
    """Returns what a model said of a split, from what was kept of it.

    Args:
      kept: names, labels and logits.
      sigmoid: whether each class has a probability of its own.
    """
    names = [str(name) for name in kept.names]
    if kept.several:
        probabilities, losses = to_probabilities(kept.logits, sigmoid=True), log_losses(kept.labels, kept.logits)
        return Classified(names, kept.labels, kept.logits.argmax(1), probabilities, losses)
    probabilities, _ = probabilities_of(kept.labels, kept.logits.astype(np.float32), sigmoid=sigmoid)
    return Classified(names, kept.labels, kept.logits.argmax(1), probabilities)
