"""torchvision: a .pth file in torchvision's names, for the function of torchvision that makes the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import Format
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.torch_names import evaluated_leaves, families_of, in_first_complete, lay_out, module_of
from jaxtl.deploy.export.weights import reopened, weights_alone
from jaxtl.errors import UserError
from jaxtl.models.base import image_channels
from jaxtl.models.builders import find_builder
from jaxtl.preprocessing import Pixels


def save_torchvision(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
) -> str:
    """Writes a state dict that `load_state_dict` of torchvision's network takes as it is.

    Auxiliary heads are left out. The arguments are those of `save_huggingface`; such a file has no room for pixels,
    classes and calibration.

    Returns:
      what the file does not say: the call that makes the network, and how images are prepared.

    Raises:
      UserError: torchvision has no such network, or PyTorch is not installed.
    """
    del classes, calibration, provenance
    arrays, call = lay_out("torchvision", variables, model=model, pixels=pixels, epsilon=epsilon)
    _write(Path(path), arrays)
    facts = ", ".join(f"{key} {value}" for key, value in pixels.to_json().items())
    return f"for torchvision.models.{call}; the file names no classes and does not say how images are prepared: {facts}"


def lay_out_torchvision(
    leaves: Mapping[str, np.ndarray], *, model: str, pixels: Pixels, epsilon: float | None
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays, and the call of the function that makes the network.

    Raises:
      UserError: torchvision has no such network.
    """
    module = module_of(leaves, model, pixels, epsilon)
    for family in families_of(module):
        builders = getattr(family, "BUILDERS", {}).get("torchvision")
        if builders is None:
            continue
        key_mappings = [mapping for mapping in family.KEY_MAPPINGS if mapping.name == "torchvision"]
        shapes = {path: leaf.shape for path, leaf in leaves.items()}
        refine = key_mappings[0].refine
        implied = refine(shapes).fields if refine else key_mappings[0].fields
        variants = {name: {**family.VARIANTS[variant], **implied} for variant, name in builders.items()}
        same = family.as_torchvision(module) if hasattr(family, "as_torchvision") else module
        builder = find_builder("torchvision", same, variants)
        channels = image_channels(module, leaves)
        if channels != 3:
            raise UserError(f"torchvision's networks take images of 3 channels, {model!r} was trained on {channels}.")
        arrays = in_first_complete(evaluated_leaves(module, leaves), key_mappings)
        arrays |= family.torchvision_extras(module) if hasattr(family, "torchvision_extras") else {}
        arguments = {"num_classes": module.num_classes}
        arguments |= family.torchvision_arguments(module) if hasattr(family, "torchvision_arguments") else {}
        return arrays, f"{builder}({', '.join(f'{name}={value}' for name, value in arguments.items())})"
    raise UserError(f"torchvision has no model that computes what {model!r} does.")


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError("writing a .pth file needs PyTorch: pip install 'jaxtl[torch]'.") from None
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)


FORMAT = Format(
    "torchvision",
    "a .pth file in torchvision's names",
    weights_alone(save_torchvision),
    suffix=".pth",
    lay_out=lay_out_torchvision,
    run=reopened,
)
