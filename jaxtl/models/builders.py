"""Which function of another package makes a network that computes what a model here does."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.base import GroupedModel, ModelOptions
from jaxtl.models.batchnorm_model import ordered_fields
from jaxtl.models.key_mapping import refuse_timm_changes

# They matter in training alone, or are what the caller chooses.
_FREE = {"parent", "name", "num_classes", "image_size", "momentum", "unbiased", "axis_name"}
_FREE |= {field.name for field in dataclasses.fields(ModelOptions)}


def differences(model: GroupedModel, fields: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares what a model computes in evaluation with what its module does with other fields.

    Returns:
      (its value, the model's) of each field in which they differ; sizes of images and classes do not count.
    """
    module: Any = type(model)
    other = module(num_classes=0, **fields)
    pairs = {
        field.name: (getattr(other, field.name), getattr(model, field.name))
        for field in ordered_fields(type(model))
        if field.name not in {*_FREE, model.auxiliary_field}
    }
    return {name: (theirs, ours) for name, (theirs, ours) in pairs.items() if theirs != ours}


def find_builder(package: str, model: GroupedModel, variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Names the function of a package that makes the model.

    Args:
      package: its name, for the error.
      model: of `jaxtl.models`.
      variants: the fields of the module by the name of the function.

    Raises:
      UserError: none does; it says in what the nearest differs.
    """
    found = {name: differences(model, fields) for name, fields in variants.items()}
    name = min(found, key=lambda name: len(found[name]))
    if found[name]:
        others = ", ".join(f"{field}={theirs} for {ours}" for field, (theirs, ours) in found[name].items())
        raise UserError(f"{package} has no such {type(model).__name__}: its {name} computes with {others}.")
    return name


def from_timm_efficientnet(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model, for what its EfficientNets and MobileNets share.

    Raises:
      ValueError: there is an argument that may change the function otherwise; it names it and its value.
    """
    others = dict(arguments)
    fields: dict[str, Any] = {}
    if "bn_eps" in others:
        fields["epsilon"] = others.pop("bn_eps")
    if others.get("pad_type") in ("", "same"):
        fields["tf_padding"] = others.pop("pad_type") == "same"
    refuse_timm_changes(others)
    return fields


def to_timm_efficientnet(model: GroupedModel, variants: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes an EfficientNet or a MobileNet.

    Args:
      model: of `jaxtl.models`.
      variants: the fields of the module by the name of timm's architecture, whose epsilon is 1e-5.

    Raises:
      UserError: timm has no such network.
    """
    conventions: dict[str, Any] = {key: getattr(model, key) for key in ("epsilon", "tf_padding")}
    name = find_builder("timm", model, {name: {**fields, **conventions} for name, fields in variants.items()})
    arguments = {"bn_eps": conventions["epsilon"]} if conventions["epsilon"] != 1e-5 else {}
    return name, {**arguments, "pad_type": "same"} if conventions["tf_padding"] else arguments
