"""What a Keras file holds besides a network that is known here: another head, preprocessing, other layers."""

import dataclasses
import json
import re
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.base import Family
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import PixelDefaults
from jaxtl.pretrained import rename
from jaxtl.pretrained.architecture import keras_name
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import walk
from jaxtl.pretrained.keras_pixels import Unknown, pixels_inside


def prepare(arrays: Arrays, key_mapping: KeyMapping) -> tuple[KeyMapping, str, str]:
    """Takes the preprocessing that lies within the model for that of its convention.

    Returns: the convention, what says so if it is another, and what is in the way if it cannot be told (see `check`).
    """
    inside = pixels_inside(arrays, key_mapping)
    if isinstance(inside, Unknown):
        return key_mapping, "", inside.reason
    if inside is None or key_mapping.pixels is None:
        return key_mapping, "", ""
    usual = key_mapping.pixels
    rows = key_mapping.rows
    if not inside.turned:
        # It sees red first, so that nothing is to be turned round.
        rows = tuple((source, target, "conv" if kind == "bgr" else kind) for source, target, kind in rows)
    pixels = PixelDefaults(inside.statistics, usual.interpolation, usual.crop)
    read = [name for kind, name in json.loads(arrays.metadata["layers"]) if kind == "normalization"]
    unused = (*key_mapping.unused, *(f"{re.escape(name)}/(mean|variance|count)" for name in read))
    return dataclasses.replace(key_mapping, rows=rows, pixels=pixels, unused=unused), inside.origin, ""


def input_size(arrays: Arrays) -> int:
    """Gives the side of the square images that a model was made for, in pixels; 0 if its file does not say."""
    for layer in walk(arrays.metadata["model_config"]):
        shape: Any = layer["config"].get("batch_shape") or layer["config"].get("batch_input_shape") or ()
        if len(shape) == 4:
            return int(shape[1]) if shape[1] and shape[1] == shape[2] else 0
    return 0


def check(location: str, arrays: Arrays, plan: rename.Plan, obstacle: str) -> None:
    """Refuses a known network that gets other inputs than it would here.

    Args:
      location: as it was given.
      arrays: of the file.
      plan: what they fill.
      obstacle: why it cannot be told what is done to pixels; empty if it can.

    Raises:
      UserError: that, or a layer with weights that are not known comes before the network or lies within it.
    """
    if obstacle:
        raise UserError(f"{location}: {obstacle}.", arguments=["mean", "std"] if "mean" in obstacle else [])
    if not arrays.metadata.get("model_config"):
        return
    order = [name for _, name in json.loads(arrays.metadata["layers"])]
    known = {part.source.rpartition("/")[0] for parts in plan.parts.values() for part in parts}
    last = max((place for place, name in enumerate(order) if name in known), default=-1)
    early = {name.rpartition("/")[0] for name in plan.unknown} & set(order[: max(last, 0)])
    if early:
        listed = ", ".join(sorted(early))
        raise UserError(
            f"{location}: its layers {listed} come before the last layer of the network, which would not be the same "
            "without them: save the network alone."
        )


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
