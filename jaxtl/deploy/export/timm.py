"""timm: a folder in timm's names, as timm would have saved it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.deploy.export import Format
from jaxtl.deploy.export.torch_names import (
    evaluated_leaves,
    families_of,
    in_first_complete,
    module_of,
    refusal,
    write_folder,
)
from jaxtl.models.base import image_channels
from jaxtl.models.builders import find_builder
from jaxtl.preprocessing import Pixels
from jaxtl.trees import flatten


def save_timm(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
) -> None:
    """Writes a folder with model.safetensors in timm's names, and the config.json of timm's hub repositories.

    The arguments are those of `save_huggingface`.

    Raises:
      UserError: timm has no such model.
    """
    leaves = flatten(variables)
    module = module_of(leaves, model, pixels, epsilon)
    for family in families_of(module):
        # timm's own names first: torchvision's name everything of some families that have both.
        key_mappings = [
            key_mapping
            for name in ("timm", "torchvision")
            for key_mapping in family.KEY_MAPPINGS
            if key_mapping.name == name
        ]
        if not key_mappings:
            continue
        builders = getattr(family, "BUILDERS", {}).get("timm")
        if hasattr(family, "to_timm"):
            made = family.to_timm(module)
            if made is None:
                continue
            architecture, arguments = made
        elif builders:
            variants = {name: family.VARIANTS[variant] for variant, name in builders.items()}
            architecture, arguments = find_builder("timm", module, variants), {}
        else:
            continue
        arrays = in_first_complete(evaluated_leaves(module, leaves), key_mappings)
        count: int = module.num_classes
        facts = {
            "input_size": [image_channels(module, leaves), pixels.size, pixels.size],
            "crop_pct": pixels.size / pixels.resize,
            "interpolation": pixels.interpolation,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "num_classes": count,
        }
        config = {"architecture": architecture, "num_classes": count, "model_args": arguments, "pretrained_cfg": facts}
        config |= {"label_names": list(classes)} if classes else {}
        write_folder(Path(path), arrays, {"config.json": config})
        return
    raise refusal("timm", model, "timm")


FORMAT = Format("timm", "a folder in timm's names", save_timm, any_head=False)
