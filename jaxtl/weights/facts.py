"""Reads what config.json and preprocessor_config.json say about a model, in the words of transformers and of timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtl.weights.pixels import Pixels

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Facts:
    """What is known about a model besides its arrays; empty where nothing is said.

    Attributes:
      model: its name here.
      epsilon: of its normalisations.
      classes: its class names.
      pixels: how its pixels are prepared.
      pixels_from: the file that says so.
    """

    model: str = ""
    epsilon: float | None = None
    classes: tuple[str, ...] | None = None
    pixels: Pixels | None = None
    pixels_from: str = ""


def facts_from_config(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Facts:
    """Gathers the facts of a model folder; either file may be missing (empty)."""
    pixels, origin = None, ""
    if preprocessor:
        pixels, origin = _transformers_pixels(preprocessor), "preprocessor_config.json"
    elif "pretrained_cfg" in config:
        pixels, origin = _timm_pixels(config["pretrained_cfg"]), "config.json"
    return Facts(
        epsilon=config.get("layer_norm_eps"),
        classes=_classes(config),
        pixels=pixels,
        pixels_from=origin,
    )


def _classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    # transformers writes LABEL_0, LABEL_1, ... where nobody gave names.
    return names if names and names != tuple(f"LABEL_{i}" for i in range(len(names))) else None


def _transformers_pixels(facts: Mapping[str, Any]) -> Pixels:
    size = facts.get("size", 224)
    shorter = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
    crop = facts.get("crop_size", shorter) if facts.get("do_center_crop") else shorter
    side = crop if isinstance(crop, int) else crop["height"]
    resize = max(shorter, side)
    if "crop_pct" in facts and facts["crop_pct"] and side == shorter < 384:
        resize = int(shorter / facts["crop_pct"])
    normalised = facts.get("do_normalize", True)
    return Pixels(
        size=side,
        resize=resize,
        mean=tuple(facts["image_mean"]) if normalised else (0.0, 0.0, 0.0),
        std=tuple(facts["image_std"]) if normalised else (1.0, 1.0, 1.0),
        interpolation=_RESAMPLING[facts.get("resample", 2)],
    )


def _timm_pixels(facts: Mapping[str, Any]) -> Pixels:
    size = facts["input_size"][-1]
    return Pixels(
        size=size,
        resize=int(size / facts.get("crop_pct", 0.875)),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        interpolation=facts.get("interpolation", "bicubic"),
    )
