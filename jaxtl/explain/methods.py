"""The methods by name: which suit a model, and one function that runs any of them."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import UserError, nearest
from jaxtl.explain import attention_maps, integrated_gradients, occlusion
from jaxtl.explain.grad_cam import grad_cam
from jaxtl.explain.target import Variables, plain_form
from jaxtl.models.base import GroupedModel
from jaxtl.models.layers.attention_weights import FollowsAttention
from jaxtl.models.transformer import ViT

AUTO = "auto"


@dataclass(frozen=True)
class Method:
    """A way to explain.

    Attributes:
      title: what it is called in words.
      explain: (model, variables, images [B, H, W, C], classes [B]) -> maps [B, H, W].
      reads_attention: whether it suits only models whose attention can be followed.
      follows_class: whether another class gives another map.
    """

    title: str
    explain: Callable[..., jax.Array]
    reads_attention: bool = False
    follows_class: bool = True


METHODS = {
    "grad_cam": Method("Grad-CAM", grad_cam),
    "rollout": Method("attention rollout", attention_maps.rollout, reads_attention=True, follows_class=False),
    "gradient_attention": Method(
        "gradient-weighted attention", attention_maps.gradient_attention, reads_attention=True
    ),
    "integrated_gradients": Method("integrated gradients", integrated_gradients.integrated_gradients),
    "occlusion": Method("occlusion", occlusion.occlusion),
}


def suitable_methods(model: GroupedModel) -> tuple[str, ...]:
    """Returns the methods that a model takes: those of attention only ViT and Swin."""
    follows = isinstance(model, FollowsAttention)
    return tuple(name for name, method in METHODS.items() if follows or not method.reads_attention)


def choose_method(model: GroupedModel, method: str = AUTO) -> str:
    """Returns the method to use; "auto" is gradient-weighted attention for a ViT, and Grad-CAM for all others.

    Raises:
      UserError: there is no such method, or the model cannot take it; it names those that it can.
    """
    if method == AUTO:
        return "gradient_attention" if isinstance(model, ViT) else "grad_cam"
    suitable = suitable_methods(model)
    if method in suitable:
        return method
    choose = f"choose {', '.join(suitable)} or {AUTO}."
    if method in METHODS:
        raise UserError(f"method {method!r} reads attention weights, and {type(model).__name__} has none; {choose}")
    meant = nearest(method, suitable)
    raise UserError(f"there is no method {method!r}" + f"; did you mean {meant!r}?" * bool(meant) + f" {choose}")


def explain_images(
    model: GroupedModel,
    variables: Variables,
    images: jax.Array | np.ndarray,
    classes: jax.Array | np.ndarray,
    method: str = AUTO,
    group: str = "",
) -> jax.Array:
    """Returns maps float32 [B, H, W], not negative: the greater, the more a pixel speaks for the class.

    Compiled once for each model, method and batch size. Only values of one map are comparable with each other.

    Args:
      model: the module of the network.
      variables: of it.
      images: normalised as the model expects them, float32 [B, H, W, C].
      classes: the index of the class to explain for each image, [B].
      method: one of `METHODS`, or "auto".
      group: whose maps Grad-CAM looks at; "" for the last.

    Raises:
      UserError: the model cannot take the method, or the group has no maps.
    """
    name = choose_method(model, method)
    if group and name != "grad_cam":
        raise UserError(f"group {group!r} is for grad_cam alone, and the method is {name!r}: leave one of them out.")
    model, variables = plain_form(model, variables)
    inputs = jnp.asarray(images, jnp.float32), jnp.asarray(classes, jnp.int32)
    if name == "grad_cam":
        return grad_cam(model, variables, *inputs, group=group)
    return METHODS[name].explain(model, variables, *inputs)
