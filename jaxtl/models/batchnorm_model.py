"""What models with BatchNorm share: the fields of their normalisations, and how fields are ordered in a name."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxtl.models.base import GroupedModel


class BatchNormModel(GroupedModel, kw_only=True):
    """A model whose normalisations are alike; `layers.batchnorm.norm_fields` gives a layer what stands here.

    Attributes:
      epsilon: added to the variance.
      momentum: the share that running statistics keep at each training step.
      unbiased: whether the running variance is the unbiased one, as in PyTorch.
      dropout: the dropout rate in training.
      axis_name: the mapped axis over which batch statistics are taken, under pmap.
      remat: whether training computes each block a second time instead of keeping what lies within it.
      dtype: what is computed in.
    """

    has_batch_norm: ClassVar[bool] = True
    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "momentum", "unbiased")

    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32


def ordered_fields(model: type) -> list[dataclasses.Field[Any]]:
    """Gives the fields of a module as names and messages list them: its sizes before those of its normalisations.

    A base class' fields come first in a dataclass; names that earlier versions wrote have them last.
    """
    shared = {field.name for field in dataclasses.fields(BatchNormModel)}
    shared -= {field.name for field in dataclasses.fields(GroupedModel)}
    if not issubclass(model, BatchNormModel):
        shared = set()
    return sorted(dataclasses.fields(model), key=lambda field: field.name in shared)
