"""Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): which places of a group's maps speak for a class.

Each channel is weighted by the mean gradient of the class's logit over the places; the weighted sum of the channels,
where it is positive, is the map.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.explain.target import Variables, apply, apply_at_pooling, scores
from jaxtl.models.base import AUXILIARY, GroupedModel


@partial(jax.jit, static_argnames=("model", "group"))
def grad_cam(
    model: GroupedModel, variables: Variables, images: jax.Array, classes: jax.Array, *, group: str = ""
) -> jax.Array:
    """Returns maps float32 [B, H, W], not negative.

    Args:
      model: in its plain form (see `jaxtl.explain.target.plain_form`).
      variables: of it.
      images: normalised, float32 [B, H, W, C].
      classes: their indices [B].
      group: whose maps or tokens are looked at; "" for the last that has more than one place. Of the tokens of a ViT
        those of patches are. Of a group that pools, it is the maps that it pools.

    Raises:
      UserError: the group has no maps.
    """
    maps, rest = _cut(model, variables, images, _choose(model, variables, images, group))
    gradients = jax.grad(lambda maps: scores(model, rest(maps), classes).sum())(maps)
    maps, gradients = (_on_grid(model, x.astype(jnp.float32)) for x in (maps, gradients))
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    cam = jax.nn.relu((maps * weights).sum(axis=-1))
    return jax.nn.relu(jax.image.resize(cam, images.shape[:3], "bilinear"))


def groups_with_maps(model: GroupedModel, variables: Variables, images: jax.Array) -> dict[str, int]:
    """Returns the groups that Grad-CAM can look at, input to head, and the number of places on their maps."""
    found = {}
    x = jax.ShapeDtypeStruct(images.shape, images.dtype)
    names = [name for name, _ in model.groups()[:-1] if not AUXILIARY.fullmatch(name)]
    for name in names:
        pooled: list[jax.Array] = []

        def keep(maps: jax.Array, pooled: list[jax.Array] = pooled) -> jax.Array:
            pooled.append(maps)
            return maps

        run = partial(apply_at_pooling, model, on_maps=keep, start=name, stop=name)
        x = jax.eval_shape(lambda v, x, run=run: run(v, x), variables, x)
        maps = x if x.ndim > 2 else pooled[0] if pooled else None
        if maps is not None and _places(model, maps):
            found[name] = _places(model, maps)
    return found


def _places(model: GroupedModel, maps: jax.Array) -> int:
    if maps.ndim == 4:
        return math.prod(maps.shape[1:3])
    # The last block of some, as of a distilled DeiT, gives the tokens alone that the head reads: none is of a patch.
    prefix = _prefix(model, maps)
    return maps.shape[1] - prefix if prefix >= 0 else 0


def _prefix(model: GroupedModel, tokens: jax.Array) -> int:
    """Returns the number of tokens [B, N, D] before those of the patches, which lie on a square."""
    return int(tokens.shape[1] - getattr(model, "grid", math.isqrt(tokens.shape[1])) ** 2)


def _on_grid(model: GroupedModel, x: jax.Array) -> jax.Array:
    """Lays tokens [B, N, D] out as they lie on the image, [B, h, w, D]; maps stay as they are."""
    if x.ndim == 4:
        return x
    patches = x[:, _prefix(model, x) :]
    side = math.isqrt(patches.shape[1])
    return patches.reshape(x.shape[0], side, side, x.shape[-1])


def _choose(model: GroupedModel, variables: Variables, images: jax.Array, group: str) -> str:
    places = groups_with_maps(model, variables, images)
    if group and group not in places:
        names = [name for name, _ in model.groups()]
        what = "has no maps" if group in names else "is none of the model"
        raise UserError(f"group {group!r} {what}; Grad-CAM can look at {', '.join(places)}.")
    if not places:
        raise UserError(f"no group of {type(model).__name__} has maps for Grad-CAM to look at.")
    # Small images leave one place at the end, which says nothing about where.
    with_several = [name for name, count in places.items() if count > 1]
    return group or (with_several or list(places))[-1]


def _cut(
    model: GroupedModel, variables: Variables, images: jax.Array, group: str
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns the maps of a group, and what makes logits of them."""
    kept: list[jax.Array] = []

    def keep(maps: jax.Array) -> jax.Array:
        kept.append(maps)
        return maps

    given = apply_at_pooling(model, variables, images, keep, stop=group)
    if given.ndim > 2:
        names = [name for name, _ in model.groups()]
        after = names[names.index(group) + 1]
        return given, lambda maps: apply(model, variables, maps, start=after)
    # What comes before the maps is computed for nothing here, and left out by the compiler.
    return kept[0], lambda maps: apply_at_pooling(model, variables, images, lambda _: maps)
