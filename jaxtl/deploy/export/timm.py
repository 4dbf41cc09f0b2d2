"""timm: a folder in timm's names, as timm would have saved it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import Format
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.torch_names import (
    evaluated_leaves,
    families_of,
    in_first_complete,
    lay_out,
    module_of,
    write_folder,
)
from jaxtl.deploy.export.weights import reopened, weights_alone
from jaxtl.errors import UserError
from jaxtl.models.base import Family, GroupedModel, image_channels
from jaxtl.models.builders import find_builder
from jaxtl.preprocessing import Pixels


def save_timm(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Writes a folder with model.safetensors in timm's names, and the config.json of timm's hub repositories.

    The arguments are those of `save_huggingface`.

    Raises:
      UserError: timm has no such model.
    """
    arrays, config = lay_out("timm", variables, model=model, pixels=pixels, epsilon=epsilon)
    config |= {"label_names": list(classes)} if classes else {}
    config |= {} if calibration is None else {"calibration": dict(calibration)}
    write_folder(Path(path), arrays, {"config.json": config}, provenance)


def lay_out_timm(
    leaves: Mapping[str, np.ndarray], *, model: str, pixels: Pixels, epsilon: float | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the config.json, without class names.

    Raises:
      UserError: timm has no such model.
    """
    module = module_of(leaves, model, pixels, epsilon)
    for family in families_of(module):
        # timm's own names first: torchvision's name everything of some families that have both.
        key_mappings = [
            key_mapping
            for name in ("timm", "torchvision")
            for key_mapping in family.KEY_MAPPINGS
            if key_mapping.name == name
        ]
        made = _made_by(family, module) if key_mappings else None
        if made is None:
            continue
        architecture, arguments = made
        arrays = in_first_complete(evaluated_leaves(module, leaves), key_mappings)
        count: int = module.num_classes
        facts = {
            "input_size": [image_channels(module, leaves), pixels.size, pixels.size],
            "crop_pct": crop_share(pixels),
            "interpolation": pixels.interpolation,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "num_classes": count,
        }
        config = {"architecture": architecture, "num_classes": count, "model_args": arguments, "pretrained_cfg": facts}
        return arrays, config
    raise UserError(f"timm has no model that computes what {model!r} does.")


def crop_share(pixels: Pixels) -> float:
    """Returns the share from which timm, which divides by it and rounds down, gets the shorter side before the crop."""
    share = pixels.size / pixels.resize
    # 384 / (384 / 450) is 449.99999999999994.
    return share if math.floor(pixels.size / share) == pixels.resize else math.nextafter(share, 0)


def _made_by(family: Family, module: GroupedModel) -> tuple[str, dict[str, Any]] | None:
    """Returns the architecture and the arguments of create_model; None if timm does not have the family."""
    if hasattr(family, "to_timm"):
        made: tuple[str, dict[str, Any]] | None = family.to_timm(module)
        return made
    if builders := getattr(family, "BUILDERS", {}).get("timm"):
        return find_builder("timm", module, {name: family.VARIANTS[variant] for variant, name in builders.items()}), {}
    return None


FORMAT = Format(
    "timm", "a folder in timm's names", weights_alone(save_timm), library="timm", lay_out=lay_out_timm, run=reopened
)
