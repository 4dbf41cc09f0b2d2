"""What the formats for PyTorch share: leaves in other names, and a folder of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import formats
from jaxtl.errors import UserError
from jaxtl.models import build, count_classes, families, find_family
from jaxtl.models.base import AUXILIARY, Family, GroupedModel
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained import rename
from jaxtl.pretrained.native import write_safetensors


def module_of(leaves: Mapping[str, np.ndarray], model: str, pixels: Pixels, epsilon: float | None) -> GroupedModel:
    """Returns the module that the leaves are of.

    Raises:
      UserError: it has no head, or one for which other programs have no names.
    """
    num_classes = count_classes(model, leaves)
    if not num_classes:
        raise UserError(f"the model {model!r} has no head; only classifiers are exported.")
    module = build(model, num_classes=num_classes, image_size=pixels.size, epsilon=epsilon)
    if module.custom_head:
        able = ", ".join(format.name for format in formats().values() if format.any_head)
        raise UserError(f"other programs have no names for the head of {model!r}; the formats that hold it: {able}.")
    return module


def families_of(module: GroupedModel) -> list[Family]:
    """Returns the families whose key tables name the leaves of a module."""
    return [family for family in families() if family.MODEL is type(module)]


def evaluated_leaves(module: GroupedModel, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what only training uses: the auxiliary heads."""
    auxiliary = {pattern for name, pattern in module.groups() if AUXILIARY.fullmatch(name)}
    return {path: leaf for path, leaf in leaves.items() if path.split("/")[1] not in auxiliary}


def refusal(package: str, model: str, form: str) -> UserError:
    """Words that a package has no network like a model, and names the other formats that may."""
    found = [family for family in families() if family.MODEL is find_family(model).MODEL]
    others = {name for family in found for name in getattr(family, "BUILDERS", {})}
    others |= {name for family in found for name in ("timm", "config") if hasattr(family, f"to_{name}")}
    named = ["jaxtl", *sorted({"hf" if name == "config" else name for name in others} - {form})]
    return UserError(
        f"{package} has no model that computes what {model!r} does: it can be exported to {', '.join(named)}."
    )


def in_first_complete(leaves: Mapping[str, np.ndarray], key_mappings: Sequence[KeyMapping]) -> dict[str, np.ndarray]:
    """Writes the leaves in the first of some key_mappings that has a name for each of them."""
    problems = []
    for key_mapping in key_mappings:
        try:
            arrays = rename.to_source_keys(leaves, key_mapping)
        except ValueError as error:
            problems.append(str(error))
            continue
        # PyTorch counts the batches of each normalisation; with a fixed momentum nobody reads the count.
        counters = [name for name in arrays if name.endswith(".running_var")]
        zero = np.zeros((), np.int64)
        return arrays | {name.replace("running_var", "num_batches_tracked"): zero for name in counters}
    raise UserError("; ".join(problems) + ".")


def write_folder(folder: Path, arrays: Mapping[str, np.ndarray], files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a new folder of arrays, for PyTorch, and JSON files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    # transformers refuses a file that does not say that it is for PyTorch.
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
