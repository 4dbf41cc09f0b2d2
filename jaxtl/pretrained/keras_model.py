"""What a Keras file holds besides a network that is known here: another head, preprocessing, other layers."""

import dataclasses
import json

import jax
import jax.numpy as jnp

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.models.base import Family
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import PixelDefaults
from jaxtl.pretrained import rename
from jaxtl.pretrained.architecture import keras_name
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import plain_name
from jaxtl.pretrained.keras_pixels import pixels_inside


def prepare(arrays: Arrays, key_mapping: KeyMapping) -> tuple[KeyMapping, str]:
    """Takes the preprocessing that lies within the model for that of its convention; gives what says so, too."""
    inside = pixels_inside(arrays)
    if inside is None or key_mapping.pixels is None:
        return key_mapping, ""
    usual = key_mapping.pixels
    rows = key_mapping.rows
    if not inside.turned:
        # It sees red first, so that nothing is to be turned round.
        rows = tuple((source, target, "conv" if kind == "bgr" else kind) for source, target, kind in rows)
    pixels = PixelDefaults(inside.statistics, usual.interpolation, usual.crop)
    return dataclasses.replace(key_mapping, rows=rows, pixels=pixels), inside.origin


def find_head(arrays: Arrays, key_mapping: KeyMapping, plan: rename.Plan, model: str) -> tuple[rename.Plan, str]:
    """Takes the dense layer that follows a network without its top for its head, or leaves out what follows.

    Args:
      arrays: of the file.
      key_mapping: its convention.
      plan: what its arrays fill.
      model: the name of the model that they are of.

    Returns:
      The plan without unknown arrays, and what is to be said about the head.
    """
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in plan.unknown))
    obstacle = _obstacle(arrays, key_mapping, layers, model)
    if not obstacle:
        (layer,) = layers
        names = {"kernel": "params/head/kernel", "bias": "params/head/bias"}
        parts = {names[name.rpartition("/")[2]]: (rename.Part(name, rename.SAME),) for name in plan.unknown}
        return rename.Plan({**plan.parts, **parts}, plan.unused, ()), f"the head is the layer {layer}"
    note = f"what follows the network is not loaded ({', '.join(layers)}): {obstacle}"
    return rename.Plan(plan.parts, (*plan.unused, *plan.unknown), ()), note


def _obstacle(arrays: Arrays, key_mapping: KeyMapping, layers: list[str], model: str) -> str:
    """Says why what follows a network is no head of the kind that is known here; empty if it is one."""
    kinds = [kind for kind, _ in json.loads(arrays.metadata["layers"])]
    if len(layers) != 1:
        return "it is more than one layer"
    if "global_max_pooling2d" in kinds:
        return "it reads a maximum, not a mean"
    shape = arrays.shapes.get(f"{layers[0]}/kernel", ())
    width = _features(model)
    if len(shape) != 2:
        return "it is no dense layer"
    if f"{layers[0]}/bias" not in arrays:
        return "it has no bias"
    if shape[0] != width:
        return f"it reads {shape[0]:,} features, not the {width:,} that are left after the mean"
    early = [layer for layer in key_mapping.pooled if f"{layer}/gamma" in arrays]
    if early and not _follows(kinds, "global_average_pooling2d", plain_name(early[0])):
        return f"the mean is taken after {early[0]}, not before"
    return ""


def _follows(kinds: list[str], first: str, second: str) -> bool:
    places = [len(kinds) - 1 - kinds[::-1].index(kind) if kind in kinds else -1 for kind in (first, second)]
    return 0 <= places[0] < places[1]


def _features(model: str) -> int:
    module = models.build(model, num_classes=0)
    images = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    found, _ = jax.eval_shape(lambda images: module.init_with_output(jax.random.key(0), images), images)
    return int(found.shape[-1])


def is_strange(arrays: Arrays, plan: rename.Plan) -> bool:
    """Whether arrays that no rule names are those of convolutions: then the network is another one."""
    return any(len(arrays.shapes[name]) > 2 for name in plan.unknown)


def refusal(location: str, arrays: Arrays, families: tuple[Family, ...]) -> UserError:
    """Words the error for a network that is not known here: what was found, and what would fit, in a line."""
    name = keras_name(arrays.metadata)
    kinds = list(dict.fromkeys(kind for kind, _ in json.loads(arrays.metadata["layers"])))
    weighted = [kind for kind in kinds if any(word in kind for word in ("conv", "norm", "dense", "scale"))]
    known = [family.__name__.rpartition(".")[2] for family in families if _has_keras(family)]
    listed = ", ".join(list(arrays)[:3])
    return UserError(
        f"{location}: Keras layers of no network that is known here: "
        f"{name + ': ' if name else ''}{', '.join(weighted or kinds)} ({listed}, ...); known are those of "
        f"{', '.join(known)}."
    )


def _has_keras(family: Family) -> bool:
    return any(key_mapping.layout == "keras" for key_mapping in family.KEY_MAPPINGS)
