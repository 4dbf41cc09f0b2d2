"""Writes variables under the names of the variables themselves, with all facts in the file itself."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxtl.compress.quantization import pack
from jaxtl.errors import first_line
from jaxtl.models import build, count_classes, fields_of
from jaxtl.preprocessing import Pixels
from jaxtl.trees import flatten


def native_facts(
    model: str, *, num_classes: int, epsilon: float | None, pixels: Pixels | None, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Gathers what must be kept beside arrays in native names, as plain values."""
    return {
        "model": model,
        "num_classes": num_classes,
        "epsilon": epsilon,
        "classes": list(classes) if classes else None,
        "pixels": pixels.to_json() if pixels else None,
    }


def native_leaves(variables: Mapping[str, Any], model: str) -> dict[str, np.ndarray]:
    """Returns the arrays that `save_native` writes of the variables of a model, by name."""
    if form := fields_of(model).get("quantized"):
        module = build(model, num_classes=count_classes(model, flatten(variables)))
        variables = pack(variables, form, module.precise_kernels())
    # Not `ascontiguousarray`, which makes a scalar a row of one.
    return {name: np.asarray(leaf, order="C") for name, leaf in flatten(variables).items()}


def save_native(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels | None,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes variables as safetensors in native names; `open_weights` reads them back bit for bit.

    Kernels of a quantized model are written in its bits (see `jaxtl.compress.quantization.pack`), and read back as what
    they stand for.

    Args:
      path: the file to write.
      variables: {"params": ..., "batch_stats": ... if any}.
      model: the name the model was built by.
      pixels: its pixel facts.
      classes: its class names.
      epsilon: of its normalisations, if it is not the family's own.
      calibration: what is to be said of its calibration, as plain values.
      notes: more texts for the file's metadata, by name.
    """
    num_classes = count_classes(model, flatten(variables))
    leaves = native_leaves(variables, model)
    facts = native_facts(model, num_classes=num_classes, epsilon=epsilon, pixels=pixels, classes=classes)
    facts |= {} if calibration is None else {"calibration": calibration}
    write_safetensors(Path(path), leaves, {"jaxtl": json.dumps(facts), **(notes or {})})


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file that others may read as they may read any file of this user.

    Raises:
      OSError: it cannot be written.
    """
    try:
        save_file(dict(arrays), str(path), metadata=dict(metadata))
    except SafetensorError as error:  # Of a full disk, too.
        raise OSError(f"{path}: {first_line(error)}") from error
    # The library leaves it readable by its owner alone.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
