"""What the formats for PyTorch share: leaves in other names, and a folder of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import Format, formats
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.errors import UserError
from jaxtl.models import build, count_classes, families
from jaxtl.models.base import AUXILIARY, Family, GroupedModel
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained import rename
from jaxtl.pretrained.native import write_safetensors
from jaxtl.trees import flatten


def lay_out(
    form: str, variables: Mapping[str, Any], *, model: str, pixels: Pixels, epsilon: float | None
) -> tuple[Any, ...]:
    """Returns what the format of that name would write of a model.

    Raises:
      UserError: it has no such model; it says why, and names the formats that take it.
    """
    leaves = flatten(variables)

    def made_for(other: Format) -> Any:
        return other.lay_out and other.lay_out(leaves, model=model, pixels=pixels, epsilon=epsilon)

    def takes(other: Format) -> bool:
        try:
            made_for(other)
        except UserError:
            return False
        return True

    try:
        made: tuple[Any, ...] = made_for(formats()[form])
        return made
    except UserError as error:
        weights = [name for name, other in formats().items() if name != form and not other.compares and takes(other)]
        programs = [name for name, other in formats().items() if other.compares]
        raise UserError(
            f"{error} It can be exported to {', '.join(weights)}; {', '.join(programs)} hold any model."
        ) from None


def module_of(leaves: Mapping[str, np.ndarray], model: str, pixels: Pixels, epsilon: float | None) -> GroupedModel:
    """Returns the module that the leaves are of.

    Raises:
      UserError: it has no head, or one for which other programs have no names, or it rounds its inputs.
    """
    num_classes = count_classes(model, leaves)
    if not num_classes:
        raise UserError(f"the model {model!r} has no head; only classifiers are exported.")
    module = build(model, num_classes=num_classes, image_size=pixels.size, epsilon=epsilon)
    if module.custom_head:
        raise UserError(f"other programs have no names for the head of {model!r}.")
    if module.quantized == "w8a8":
        raise UserError(
            f"{model!r} rounds what its kernels are multiplied with, which these files cannot say: write jaxtl's own, "
            "or compress with int8, whose kernels they hold."
        )
    return module.clone(quantized="")  # Its kernels are rounded already.


def families_of(module: GroupedModel) -> list[Family]:
    """Returns the families whose key tables name the leaves of a module."""
    return [family for family in families() if family.MODEL is type(module)]


def evaluated_leaves(module: GroupedModel, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what only training uses: the auxiliary heads."""
    auxiliary = {pattern for name, pattern in module.groups() if AUXILIARY.fullmatch(name)}
    return {path: leaf for path, leaf in leaves.items() if path.split("/")[1] not in auxiliary}


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


def write_folder(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    files: Mapping[str, Mapping[str, Any]],
    provenance: Provenance | None = None,
) -> None:
    """Writes a new folder of arrays, for PyTorch, with their provenance, and JSON files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        # In ASCII, as transformers writes it: the name of a class may be that of a folder, which need not be UTF-8.
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    # transformers refuses a file that does not say that it is for PyTorch.
    origin = {} if provenance is None else {"provenance": provenance.to_text()}
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt", **origin})
