"""What is explained: the logit of a class, of a model in the form that explanations need."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel
from jaxtl.parallel.scanned_layers import unstack_layers

Variables = Mapping[str, Any]


def plain_form(model: GroupedModel, variables: Variables) -> tuple[GroupedModel, Variables]:
    """Returns the same function block by block, with attention whose weights can be read.

    A loop over blocks hides what is in them, and fused attention has no weights.
    """
    fields: dict[str, Any] = {"scan": False, "remat": False, "attention": "plain"}
    model = model.clone(**{name: value for name, value in fields.items() if hasattr(model, name)})
    return model, {**variables, "params": unstack_layers(variables["params"])}


def apply(model: GroupedModel, variables: Variables, x: jax.Array, start: str | None = None) -> jax.Array:
    """Returns the logits [B, C] of normalised images [B, H, W, C], or with `start` of what the group before it gave."""
    logits: Any = model.apply(variables, x, start=start)
    return jnp.asarray(logits)


def scores(model: GroupedModel, logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the scores [B] to explain: the logits [B, C] of the classes [B].

    Where one logit z tells two classes apart, their logits are (0, z): what speaks for one speaks against the other, so
    the score is the difference.
    """
    found = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    if getattr(model, "single_logit", False):
        found = found - jnp.take_along_axis(logits, 1 - classes[:, None], axis=1)[:, 0]
    return found


def apply_at_pooling(
    model: GroupedModel,
    variables: Variables,
    x: jax.Array,
    on_maps: Callable[[jax.Array], jax.Array],
    *,
    start: str | None = None,
    stop: str | None = None,
) -> jax.Array:
    """Applies a model, and puts what `on_maps` makes of the last maps in their place before they are pooled.

    Pooling is part of the last block, so no group returns the maps before it.

    Args:
      model: the model.
      variables: of it.
      x: images, or with `start` what the group before it returned.
      on_maps: takes the maps [B, h, w, c], or tokens [B, N, D]; it is not called where the model pools otherwise.
      start: the first group to run.
      stop: the last group to run.
    """

    def intercept(method: Any, arguments: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "pooled":
            arguments = (on_maps(arguments[0]),)
        return method(*arguments, **named)

    with nn.intercept_methods(intercept):
        result: Any = model.apply(variables, x, start=start, stop=stop)
    return jnp.asarray(result)
