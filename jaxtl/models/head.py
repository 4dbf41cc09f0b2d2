"""Heads of classifiers: the plain one of a family, and the one a user asks for, with a pooling and hidden layers."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.models.layers.pooling import max_over_places

POOLINGS = ("flatten", "avg", "max", "avg+max")
# The fields of a model that say which head it has; "", () and False stand for its family's own.
HEAD_FIELDS = ("head_hidden", "head_pool", "single_logit")


def classify(
    x: jax.Array, num_classes: int, *, train: bool, dropout: float = 0.0, bias: bool = True, name: str = "head"
) -> jax.Array:
    """Maps features [..., D] to float32 logits [..., num_classes]; with 0 classes it gives the features in float32.

    The kernel starts at zero: the first prediction is uniform, and the first steps do not shake what was learnt before.
    It is called within a compact method, whose module gets the layer of that name.
    """
    x = x.astype(jnp.float32)
    if not num_classes:
        return x
    x = nn.Dropout(dropout)(x, deterministic=not train)
    return nn.Dense(num_classes, use_bias=bias, kernel_init=nn.initializers.zeros, name=name)(x)


def pool(x: jax.Array, how: str = "") -> jax.Array:
    """Makes one vector [B, F] of maps [B, h, w, D] or tokens [B, N, D].

    Args:
      x: the maps or tokens.
      how: "avg" or "max" over all places, "avg+max" both side by side [B, 2 D], "flatten" all places one after another,
        row by row [B, h w D]; "" is "avg".
    """
    if how == "flatten":
        return x.reshape(x.shape[0], -1)
    places = tuple(range(1, x.ndim - 1))
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    found = [max_over_places(rows) if part == "max" else x.mean(axis=places) for part in (how or "avg").split("+")]
    return found[0] if len(found) == 1 else jnp.concatenate(found, axis=-1)


class Head(nn.Module):
    """Dense layers with ReLU, and the one that gives logits; the last one's arrays lie where those of a plain head do.

    Attributes:
      num_classes: the width of the logits.
      hidden: the widths of the layers before the last one.
      single_logit: whether the last layer has one column, for two classes: its logits are then (0, z), whose softmax is
        (1 - sigmoid(z), sigmoid(z)). So the cross entropy of these logits is the binary cross entropy of z, and nothing
        that reads logits need know.
      dropout: the rate before each layer in training.
      dtype: what hidden layers are computed in; logits are float32.
    """

    num_classes: int
    hidden: Sequence[int] = ()
    single_logit: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps features [B, F] to float32 logits [B, num_classes]."""
        for number, width in enumerate(self.hidden, start=1):
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"hidden{number}")(x))
        x = nn.Dropout(self.dropout)(x.astype(jnp.float32), deterministic=not train)
        columns = 1 if self.single_logit else self.num_classes
        # Zeros, as in `classify`; what lies below gets its first gradient at the second step.
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], columns))
        logits = x @ kernel + self.param("bias", nn.initializers.zeros, (columns,))[None]
        return jnp.pad(logits, ((0, 0), (1, 0))) if self.single_logit else logits


class CustomHead(nn.Module, kw_only=True):
    """What a model needs to have another head than its family's own; the arrays of that lie below "head".

    A family does two things for it: the last group before its dense layers hands its maps or tokens to `pooled`, and
    where `head_pool` is set its `groups` leave the dense layers after that out.

    Attributes:
      head_hidden: the widths of dense layers with ReLU between the pooling and the logits.
      head_pool: one of `POOLINGS`, in place of the family's own pooling and the dense layers after it.
      single_logit: whether one logit z tells two classes apart; (0, z) is returned.
    """

    head_hidden: tuple[int, ...] = ()
    head_pool: str = ""
    single_logit: bool = False

    @property
    def custom_head(self) -> bool:
        """Whether the head is another than the family's own."""
        return bool(self.head_hidden or self.head_pool or self.single_logit)

    def pooled(self, x: jax.Array) -> jax.Array:
        """Pools maps [B, h, w, D] or tokens [B, N, D] as `head_pool` says; the mean is what most families have."""
        return pool(x, self.head_pool)

    def run_custom_head(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives the logits of that head; it is called within a compact method."""
        if not self.num_classes:
            return x.astype(jnp.float32)
        dropout, dtype = getattr(self, "dropout", 0.0), getattr(self, "dtype", jnp.float32)
        return Head(self.num_classes, self.head_hidden, self.single_logit, dropout, dtype, name="head")(x, train)


def asked_fields(how: str, hidden: str | int, single_logit: bool) -> dict[str, Any]:
    """Gives the fields of a model for the head that is asked for; those that are left to its weights are missing.

    >>> asked_fields("own", "512,256", False)
    {'head_pool': '', 'head_hidden': (512, 256)}

    Args:
      how: one of `POOLINGS`, "own" for that of its family, or "" for that of the weights.
      hidden: widths with commas, "0" for no hidden layers, or "" for those of the weights.
      single_logit: whether there is one; False for what the weights have.
    """
    fields: dict[str, Any] = {}
    if how:
        fields["head_pool"] = "" if how == "own" else how
    if text := str(hidden):
        fields["head_hidden"] = tuple(int(width) for width in text.split(",")) if text != "0" else ()
    if single_logit:
        fields["single_logit"] = True
    return fields


def check_fields(hidden: Sequence[int], how: str, single_logit: bool, num_classes: int) -> None:
    """Sees that the fields of a head are sound.

    Raises:
      UserError: a width is not positive, the pooling is unknown, or one logit is asked for more or fewer than two
        classes.
    """
    if any(width < 1 for width in hidden):
        raise UserError(f"head_hidden is {tuple(hidden)}: each layer needs a width of 1 or more.")
    if how not in ("", *POOLINGS):
        raise UserError(f"head_pool {how!r} is none of {', '.join(POOLINGS)}.")
    if single_logit and num_classes not in (0, 2):
        raise UserError(
            f"one logit tells two classes apart, and there are {num_classes}: leave single_logit out.",
            arguments=["single_logit"],
        )
