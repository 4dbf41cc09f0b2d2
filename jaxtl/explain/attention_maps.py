"""Where attention leads: rollout, and attention weighted by the gradient of a class.

Both follow attention through all layers, beside the residual connections, from what the head reads to the patches. A
ViT's layers are matrices over its tokens. Swin's are matrices over the places of each window: they are followed through
the shifted windows as they lie on the map, and through the merging of patches, where each of four places gets a quarter
(see `roll_back` of the models).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxtl.explain.target import Variables, apply, scores
from jaxtl.models.base import GroupedModel
from jaxtl.models.layers.attention_weights import FollowsAttention, reading


@partial(jax.jit, static_argnames=("model",))
def rollout(model: GroupedModel, variables: Variables, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns maps float32 [B, H, W] of attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928).

    The matrix of a layer is (A + I) / 2, with A the mean of the heads' weights; the map is the product of all, from
    what the head reads to each patch. No gradient is in it, so it is the same for every class.

    Args:
      model: in its plain form, with `roll_back`.
      variables: of it.
      images: normalised, float32 [B, H, W, C].
      classes: not used.
    """
    del classes
    _, weights = _run(model, variables, images, None)
    layers = [layer.mean(axis=-3) for layer in weights]
    return _to_size(_roll_back(model, layers) / 2 ** len(layers), images)


@partial(jax.jit, static_argnames=("model",))
def gradient_attention(model: GroupedModel, variables: Variables, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns maps float32 [B, H, W] of gradient-weighted attention (Chefer et al. 2021, arXiv 2103.15679).

    The matrix of a layer is I + mean((dy/dA * A)+) over the heads, with y the logit of the class; the map is the
    product of all, from what the head reads to each patch. What the residual connections alone bring is taken off:
    where the head reads the mean of all places, it is the same for each of them.

    Args:
      model: in its plain form, with `roll_back`.
      variables: of it.
      images: normalised, float32 [B, H, W, C].
      classes: their indices [B].
    """

    def score(added: Sequence[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        logits, weights = _run(model, variables, images, added)
        return scores(model, logits, classes).sum(), weights

    shapes = jax.eval_shape(lambda: _run(model, variables, images, None)[1])
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    gradients, weights = jax.grad(score, has_aux=True)(zeros)
    layers = [jax.nn.relu(g * w).mean(axis=-3) for g, w in zip(gradients, weights, strict=True)]
    residual = _roll_back(model, [jnp.zeros_like(layer) for layer in layers])
    return _to_size(_roll_back(model, layers) - residual, images)


def _run(
    model: GroupedModel, variables: Variables, images: jax.Array, added: Sequence[jax.Array] | None
) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the logits and the weights of each layer, to which `added` is added first."""
    kept: list[jax.Array] = []

    def keep(weights: jax.Array) -> jax.Array:
        weights = weights if added is None else weights + added[len(kept)]
        kept.append(weights)
        return weights

    with reading(keep):
        logits = apply(model, variables, images)
    return logits, kept


def _roll_back(model: GroupedModel, layers: Sequence[jax.Array]) -> jax.Array:
    assert isinstance(model, FollowsAttention)
    return model.roll_back(layers)


def _to_size(maps: jax.Array, images: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.image.resize(maps, images.shape[:3], "bilinear"))
