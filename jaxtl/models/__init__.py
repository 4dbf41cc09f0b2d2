"""The models that can be fine-tuned; each family is one file with a module, its variants and its rename rules."""

import dataclasses
import difflib
import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.errors import UserError


@cache
def families() -> tuple[ModuleType, ...]:
    """Gives the family modules: every file of this folder that names its `MODEL`."""
    found = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return tuple(module for module in found if hasattr(module, "MODEL"))


def names() -> tuple[str, ...]:
    """Gives the names of all variants."""
    return tuple(name for family in families() for name in family.VARIANTS)


def build(
    name: str,
    *,
    num_classes: int,
    image_size: int = 0,
    dtype: Any = jnp.float32,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    epsilon: float | None = None,
) -> nn.Module:
    """Builds the model of that name; its parameters come from `init` or from a weight file.

    Args:
      name: a variant such as "vit_s16", or a variant with fields replaced, such as "vit_s16:patch=8,registers=4".
      num_classes: the width of the logits; 0 for pooled features instead of a head.
      image_size: the side of the square images in pixels; 0 for the variant's own.
      dtype: what is computed in; parameters and logits are float32.
      dropout: the dropout rate in training.
      drop_path: the stochastic-depth rate of the last block in training; it grows linearly from 0 at the first.
      epsilon: of the normalisations; None for the family's own.

    Raises:
      UserError: the name, or a field in it, is unknown.
    """
    base, _, replaced = name.partition(":")
    family = next((family for family in families() if base in family.VARIANTS), None)
    if family is None:
        near = difflib.get_close_matches(base, names(), n=1, cutoff=0.0)[0]
        raise UserError(f"unknown model {base!r}; did you mean {near!r}? The models are {', '.join(names())}.")
    fields = {**family.VARIANTS[base], **_parse_fields(name, replaced, family.MODEL)}
    if image_size:
        fields["image_size"] = image_size
    if epsilon is not None:
        fields["epsilon"] = epsilon
    for key, rate in (("dropout", dropout), ("drop_path", drop_path)):
        if rate:
            if key not in _field_names(family.MODEL):
                raise UserError(f"model {name!r} has no {key}; leave it at 0.")
            fields[key] = rate
    return family.MODEL(num_classes=num_classes, dtype=dtype, **fields)


def _field_names(model: type) -> set[str]:
    return {field.name for field in dataclasses.fields(model)} - {"parent", "name"}


def _parse_fields(name: str, text: str, model: type) -> dict[str, Any]:
    """Reads "patch=8,registers=4" into values of the types that the model's fields have."""
    types = {field.name: field.type for field in dataclasses.fields(model)}
    allowed = _field_names(model) - {"num_classes", "dtype", "axis_name"}
    fields: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in allowed:
            raise UserError(f"model {name!r}: unknown field {key!r}; the fields are {', '.join(sorted(allowed))}.")
        try:
            fields[key] = _parse_value(value, types[key])
        except (KeyError, ValueError):
            raise UserError(f"model {name!r}: {value!r} is no value for the field {key!r}.") from None
    return fields


def _parse_value(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    return tuple(int(part) for part in text.split("-"))
