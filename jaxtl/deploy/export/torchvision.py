"""torchvision: a .pth file in torchvision's names, for the function of torchvision that makes the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.deploy.export import Format
from jaxtl.deploy.export.torch_names import evaluated_leaves, families_of, in_first_complete, module_of, refusal
from jaxtl.errors import UserError
from jaxtl.models.base import image_channels
from jaxtl.models.builders import find_builder
from jaxtl.preprocessing import Pixels
from jaxtl.trees import flatten


def save_torchvision(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
) -> str:
    """Writes a state dict that `load_state_dict` of torchvision's network takes as it is.

    Auxiliary heads are left out. The arguments are those of `save_huggingface`; such a file has no room for pixels and
    classes.

    Returns:
      what the file does not say: the call that makes the network, and how images are prepared.

    Raises:
      UserError: torchvision has no such network, or PyTorch is not installed.
    """
    del classes
    leaves = flatten(variables)
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
        _write(Path(path), arrays)
        arguments = {"num_classes": module.num_classes}
        arguments |= family.torchvision_arguments(module) if hasattr(family, "torchvision_arguments") else {}
        call = ", ".join(f"{name}={value}" for name, value in arguments.items())
        facts = ", ".join(f"{key} {value}" for key, value in pixels.to_json().items())
        return (
            f"for torchvision.models.{builder}({call}); the file names no classes and does not say how images are "
            f"prepared: {facts}"
        )
    raise refusal("torchvision", model, "torchvision")


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError("writing a .pth file needs PyTorch: pip install 'jaxtl[torch]'.") from None
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)


FORMAT = Format("torchvision", "a .pth file in torchvision's names", save_torchvision, suffix=".pth", any_head=False)
