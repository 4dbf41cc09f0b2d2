"""Reads what config.json and preprocessor_config.json say about a model, in the words of transformers and of timm."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models import families, spec
from jaxtl.models.base import Family
from jaxtl.preprocessing import INTERPOLATIONS, Pixels, Processor
from jaxtl.pretrained.architecture import fields_of_name


@dataclass(frozen=True)
class Facts:
    """What is known about a model besides its arrays; empty where nothing is said.

    Attributes:
      model: its name here, with all fields.
      fields: the fields of the module.
      classes: its class names.
      pixels: how its pixels are prepared.
      pixels_from: the file that says so.
      architecture: the name that timm or transformers gives it.
      unknown: the same in words, if that one is not supported.
    """

    model: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    pixels: Pixels | None = None
    pixels_from: str = ""
    architecture: str = ""
    unknown: str = ""


def facts_from_config(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Facts:
    """Gathers the facts of a model folder; either file may be missing (empty).

    Raises:
      UserError: the files describe a model or a preprocessing that is not supported.
    """
    pixels, origin = None, ""
    if preprocessor:
        pixels, origin = _transformers_pixels(preprocessor), "preprocessor_config.json"
    elif "pretrained_cfg" in config:
        pixels, origin = _timm_pixels(config["pretrained_cfg"]), "config.json"
    model, fields, unknown = _timm_architecture(config) if _is_of_timm(config) else _architecture(config)
    name = str(config.get("architecture") or config.get("model_type") or "")
    return Facts(model, fields, _classes(config), pixels, origin if pixels else "", name, unknown)


def _is_of_timm(config: Mapping[str, Any]) -> bool:
    return "architecture" in config and ("pretrained_cfg" in config or "model_type" not in config)


def _timm_architecture(config: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Reads the name and the arguments of timm's create_model; shapes say the sizes more plainly."""
    name = str(config["architecture"]).partition(".")[0]
    family = next((family for family in families() if _names(family, name)), None)
    if family is None:
        return "", {}, name
    arguments = {key: config[key] for key in ("global_pool",) if key in config} | dict(config.get("model_args") or {})
    try:
        fields = family.from_timm(arguments) if hasattr(family, "from_timm") else {}
        return "", {**fields_of_name(family, name), **fields}, ""
    except ValueError as error:
        return "", {}, f"{name} with {error}"


def _names(family: Family, architecture: str) -> bool:
    return any(re.fullmatch(pattern, architecture) for pattern in family.ARCHITECTURES)


def _architecture(config: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    if "model_type" not in config:
        return "", {}, ""
    # Imported here, since it takes a second; it fills in the defaults that a config.json leaves out.
    from transformers import AutoConfig

    kind, others = config["model_type"], {key: value for key, value in config.items() if key != "model_type"}
    readers = [(family, family.from_config) for family in families() if hasattr(family, "from_config")]
    try:
        complete = AutoConfig.for_model(kind, **others).to_dict()
    except (ValueError, TypeError) as error:
        raise UserError(f"config.json: transformers does not take it: {error}") from None
    for family, from_config in readers:
        fields = from_config({**complete, "architectures": config.get("architectures")})
        if fields is not None:
            return spec(family.MODEL, fields), fields, ""
    classes = config.get("architectures") or ()
    return "", {}, f"the model type {kind!r} of transformers" + (f" ({classes[0]})" if classes else "")


def _classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or tuple(config.get("label_names") or ())
    # transformers writes LABEL_0, LABEL_1, ... where nobody gave names.
    return names if names and names != tuple(f"LABEL_{i}" for i in range(len(names))) else None


_RESAMPLING = {number: name for name, number in INTERPOLATIONS.items()}


def _transformers_pixels(facts: Mapping[str, Any]) -> Pixels | None:
    if "image_mean" not in facts or "image_std" not in facts or "size" not in facts:
        return None
    if abs(facts.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise UserError(f"preprocessor_config.json: a rescale_factor of {facts['rescale_factor']} is not supported.")
    processor = _processor(str(facts.get("image_processor_type") or facts.get("feature_extractor_type") or ""))
    shorter = _side(facts["size"])
    side = _side(facts.get("crop_size", shorter)) if facts.get("do_center_crop") else shorter
    crop_share = facts.get("crop_pct") or processor.crop_share
    # That processor enlarges the images for its crop only at sizes below 384.
    resize = int(shorter / crop_share) if crop_share and side == shorter < 384 else max(shorter, side)
    if facts.get("rescale_offset"):
        raise UserError("preprocessor_config.json: a rescale_offset is not supported.")
    normalised = facts.get("do_normalize", True)
    again = processor.divides_twice and facts.get("include_top", True)
    default = INTERPOLATIONS[processor.interpolation]
    return Pixels(
        size=side,
        resize=resize,
        mean=tuple(facts["image_mean"]) if normalised else (0.0, 0.0, 0.0),
        std=tuple(value ** (normalised + again) for value in facts["image_std"]),
        interpolation=_RESAMPLING.get(facts.get("resample", default), str(facts.get("resample"))),
    )


def _processor(kind: str) -> Processor:
    """Finds what a family says of its processor, whatever the model: many are saved with that of another one."""
    known = (family.PROCESSOR for family in families() if hasattr(family, "PROCESSOR"))
    return next((processor for processor in known if kind.startswith(processor.name)), Processor(kind))


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    return int(size.get("shortest_edge") or size["height"])


def _timm_pixels(facts: Mapping[str, Any]) -> Pixels:
    size = facts["input_size"][-1]
    return Pixels(
        size=size,
        resize=int(size / facts.get("crop_pct", 0.875)),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        interpolation=facts.get("interpolation", "bicubic"),
    )
