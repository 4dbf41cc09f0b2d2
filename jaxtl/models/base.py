"""What all models share: the protocol of a model and of its family, the loop over its groups, and its head.

A model is an ordered table of groups, input to head, and a function that runs one of them. Freezing, rates, caching,
loading and export read that table, so none of them knows an architecture.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.compress import quantization
from jaxtl.compress.structure import Units
from jaxtl.models.head import CustomHead
from jaxtl.models.head import classify as classify  # Families take it from here.
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.resize import remap_channels

Groups = tuple[tuple[str, str], ...]
"""Pairs (name, pattern); the path "a/b/c" is in a group if `re.match(rf"(?:{pattern})(?:/|$)", path)`."""

Outputs = jax.Array | tuple[jax.Array, Mapping[str, jax.Array]]
"""What a model returns: logits [B, C], or with `train=True` also those of its auxiliary heads, by their groups."""

Shape = tuple[int, ...]

Fit = Callable[[np.ndarray], np.ndarray]
"""Brings a loaded array into the shape of its leaf."""


AUXILIARY = re.compile(r"aux\d*")
"""The names of the groups that are auxiliary heads."""

AUXILIARY_WEIGHT = 0.3
"""What the loss of an auxiliary head counts where the model states nothing, as in GoogLeNet's paper."""


@dataclass(frozen=True)
class ModelOptions:
    """How a model computes and what it drops in training; none of it changes a parameter.

    Attributes:
      dtype: what is computed in; parameters and logits are float32.
      dropout: the dropout rate in training.
      drop_path: the stochastic-depth rate of the last block in training; it grows linearly from 0 at the first.
      remat: whether training computes each block a second time instead of keeping what lies within it.
      scan: whether blocks that are alike are compiled once and run as a loop; ViT only.
      attention: its form: "auto", or one of `jaxtl.models.layers.attention.FORMS`; ViT only.
    """

    dtype: Any = jnp.float32
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    attention: str = "auto"


@runtime_checkable
class Model(Protocol):
    """A Linen module that takes images to logits, group by group; `GroupedModel` is the way to write one.

    Attributes:
      num_classes: the width of the logits; 0 for pooled features instead of a head.
      image_size: the side of the square images in pixels.
      head_path: where the kernel of the classifier lies among the variables.
      unseen: the fields that leave no trace in the shapes of the parameters, or in which only conventions differ:
        weights settle them, unless a name writes them.
      auxiliary_weight: what the loss of each auxiliary head counts in training, beside 1 for the head.
      has_batch_norm: whether training normalises by the statistics of a batch.
      auxiliary_classifiers: a regex of the layers that give auxiliary logits; with a new head they are new, too.
    """

    num_classes: int
    image_size: int
    head_path: ClassVar[str]
    unseen: ClassVar[tuple[str, ...]]
    auxiliary_weight: ClassVar[float]
    auxiliary_classifiers: ClassVar[str]
    has_batch_norm: ClassVar[bool]

    def groups(self) -> Groups:
        """Gives the groups from input to head; the last one is called "head"."""
        ...

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        ...

    @property
    def min_training_size(self) -> int:
        """The least side in training, where auxiliary heads may want more."""
        ...

    def __call__(
        self, images: jax.Array, train: bool = False, start: str | None = None, stop: str | None = None
    ) -> Outputs:
        """Maps normalised images [B, H, W, C] to logits [B, num_classes], or runs the groups from start to stop.

        With `train=True` a model that has auxiliary heads returns (logits, {group: auxiliary logits}); in evaluation,
        and where `stop` is a group before the head, it returns one array.
        """
        ...

    @property
    def first_layer(self) -> str:
        """The path of the kernel that sees the pixels, such as "params/conv1/kernel"."""
        ...

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives regexes of parameter paths that weight decay leaves alone, each fitting the whole path."""
        ...

    def fit(self, path: str, before: Shape, after: Shape, *, positions: str) -> Fit | None:
        """Gives what brings a loaded array of one shape to that of its leaf; None if nothing may."""
        ...


class Family(Protocol):
    """A file of `jaxtl.models`: what is known about the models of one kind.

    Optional are `PUBLISHED` (where weights lie that others published, by the name of the variant), `NAMED_FIELDS`
    (fields that a name alone tells, by regexes that are searched in it), `TELLTALES` (names of relatives that are not
    supported, by regexes of arrays that they alone have), `PROCESSOR` (what its image processor in transformers does),
    `BUILDERS` (by "torchvision" or "timm": the names of their functions that make the variants, by variant), and the
    functions `from_config` and `to_config` (config.json of transformers), `from_timm` and `to_timm` (the arguments of
    timm's create_model), `as_torchvision` (a model of other fields that computes the same there),
    `torchvision_arguments` (what its function there takes besides the number of classes), and `extras` and
    `torchvision_extras` (arrays that transformers and torchvision want besides).

    Attributes:
      MODEL: the module.
      VARIANTS: the fields of the module, by the name of the variant.
      IMAGE_SIZE: the side of the images that the variants are made for.
      KEY_MAPPINGS: what others call its arrays.
      ARCHITECTURES: regexes of the names that timm, torchvision and Keras give to models that compute the same.
    """

    __name__: str
    MODEL: type[Any]
    VARIANTS: Mapping[str, Mapping[str, Any]]
    IMAGE_SIZE: int
    KEY_MAPPINGS: Sequence[KeyMapping]
    ARCHITECTURES: Sequence[str]

    def infer(self, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them.

        Raises:
          KeyError, ValueError, IndexError: leaves are missing.
        """
        ...


class GroupedModel(CustomHead, kw_only=True):
    """A model that runs its groups one after another; a family writes `groups` and `run_group`.

    Groups called "aux1", "aux2" and so on are auxiliary heads: they read what the group before them returned, in
    training alone, and hand it on. A family that has some writes `run_auxiliary` and `auxiliary_classifiers`; where a
    field says whether it has them, `auxiliary_field` names it.

    The head may be another than the family's own (see `jaxtl.models.head.CustomHead`); then it is run here.

    Attributes:
      quantized: "" or one of `jaxtl.compress.quantization.FORMS`: kernels, and perhaps what they are multiplied with,
        are rounded before use; gradients pass straight through.
    """

    quantized: str = ""

    head_path: ClassVar[str] = "params/head/kernel"
    unseen: ClassVar[tuple[str, ...]] = ("epsilon",)
    auxiliary_weight: ClassVar[float] = AUXILIARY_WEIGHT
    auxiliary_field: ClassVar[str] = ""
    auxiliary_classifiers: ClassVar[str] = ""
    has_batch_norm: ClassVar[bool] = False

    def groups(self) -> Groups:
        """Gives the groups from input to head; the last one is called "head"."""
        raise NotImplementedError

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group on what the one before it returned."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, start: str | None = None, stop: str | None = None
    ) -> Any:
        """Maps normalised images [B, H, W, C] to float32 logits [B, num_classes], or `Outputs` with auxiliary heads.

        Args:
          images: the images, or with `start` what the group before it returned.
          train: whether batch statistics are used and updated, and dropout and stochastic depth draw (from the
            "dropout" key).
          start: the first group to run.
          stop: the last group to run; blocks return maps [B, h, w, c] or tokens [B, N, D], the last one pooled
            features [B, D].

        With `num_classes` 0 there is no head, and the pooled features are returned.

        Raises:
          ValueError: `start` or `stop` is no group of the model, or they come in the wrong order.
        """
        if self.quantized == "w8a8":
            with nn.intercept_methods(quantization.round_inputs):
                return self._run(images, train, start, stop)
        return self._run(images, train, start, stop)

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Applies the model as `nn.Module.apply` does, to variables that may hold quantized kernels (see `pack`)."""
        if self.quantized and quantization.KERNELS not in variables:
            variables = quantization.with_rounded_kernels(variables, self.quantized, self.precise_kernels())
        return self.apply_rounded(variables, *args, **options)

    @nn.nowrap
    def apply_rounded(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Applies the model to variables whose kernels are quantized, or rounded already: none is rounded again."""
        if quantization.KERNELS in variables:
            variables = quantization.unpack(variables)
        return super().apply(variables, *args, **options)

    def precise_kernels(self) -> tuple[str, ...]:
        """Gives the kernels that are quantized to 8 bits in any form: of the first layer, and of the classifier."""
        return (self.first_layer, *self.classifier_paths())

    @nn.nowrap
    def _run(self, images: jax.Array, train: bool, start: str | None, stop: str | None) -> Any:
        x, names = images, span(self.groups(), start, stop)
        auxiliary = {}
        for run in self.runs(names):
            if AUXILIARY.fullmatch(run[0]):
                if self.num_classes and (train or self.is_initializing()):
                    auxiliary[run[0]] = self.run_auxiliary(x, run[0], train)
            elif run == ("head",) and self.custom_head:
                x = self.run_custom_head(x, train)
            else:
                x = self.run_group(x, run[0], train) if len(run) == 1 else self.run_alike(x, run, train)
        x = self.finish(x, names[-1])
        return (x, auxiliary) if auxiliary and train and names[-1] == "head" else x

    def left_out(self) -> dict[str, str]:
        """Gives the groups, and their patterns, of which weights have arrays and this model does without."""
        whole: Any = {"head_pool": "", **({self.auxiliary_field: True} if self.auxiliary_field else {})}
        own = dict(self.groups())
        return {name: pattern for name, pattern in self.clone(**whole).groups() if name not in own}

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 1

    @property
    def min_training_size(self) -> int:
        """The least side in training, where auxiliary heads may want more."""
        return self.min_size

    def run_auxiliary(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Gives the logits [B, num_classes] of an auxiliary head."""
        raise NotImplementedError

    def runs(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Gives neighbouring groups that run as one loop; each by itself unless their `block_kind` is the same."""
        return [tuple(run) for _, run in groupby(names, key=self.block_kind)]

    def block_kind(self, name: str) -> Hashable:
        """Gives what neighbouring groups must have in common to be run as one loop."""
        return name

    def run_alike(self, x: jax.Array, names: Sequence[str], train: bool) -> jax.Array:
        """Runs neighbouring groups as one loop."""
        raise NotImplementedError

    def finish(self, x: jax.Array, name: str) -> jax.Array:
        """Makes of what the last group to run gave what is returned: the same, unless a family pads within."""
        del name
        return x

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/conv1/kernel"

    def classifier_paths(self) -> tuple[str, ...]:
        """Gives the kernels of the last dense layers; the logits are what they give, or the mean of that."""
        return (self.head_path,)

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives regexes of parameter paths that weight decay leaves alone: none."""
        return ()

    def removable(self) -> tuple[Units, ...]:
        """Gives the units that structured pruning may take away; a family that has some overrides it."""
        return ()

    def fit(self, path: str, before: Shape, after: Shape, *, positions: str) -> Fit | None:
        """Gives what brings a loaded array of one shape to that of its leaf; None if nothing may.

        Only the first layer is fitted, to other image channels; a family whose arrays follow the image size adds them.

        Args:
          path: of the leaf, such as "params/conv1/kernel".
          before: the shape of the array.
          after: the shape of the leaf.
          positions: how position embeddings are resized (see `jaxtl.models.resize.resize_positions`).
        """
        del positions
        if path == self.first_layer and len(before) == 4 and (before[:2], before[3:]) == (after[:2], after[3:]):
            return partial(remap_channels, channels=after[2])
        return None


def auxiliary_weight(module: Any) -> float:
    """Gives what the loss of each auxiliary head of a module counts; any Linen module may have such heads."""
    weight: float = getattr(module, "auxiliary_weight", AUXILIARY_WEIGHT)
    return weight


def image_channels(model: Model, leaves: Mapping[str, Any]) -> int:
    """Reads off the first layer how many channels the images have."""
    return int(leaves[model.first_layer].shape[2])


def span(groups: Groups, start: str | None, stop: str | None) -> tuple[str, ...]:
    """Names the groups from `start` to `stop`, both included; None stands for the first and the last.

    Raises:
      ValueError: a name is no group of the model, or `stop` comes before `start`.
    """
    names = tuple(name for name, _ in groups)
    for given in (start, stop):
        if given is not None and given not in names:
            raise ValueError(f"no group {given!r}; the model has {', '.join(names)}")
    first = 0 if start is None else names.index(start)
    last = len(names) - 1 if stop is None else names.index(stop)
    if last < first:
        raise ValueError(f"the group {stop!r} comes before {start!r}; the order is {', '.join(names)}")
    return names[first : last + 1]
