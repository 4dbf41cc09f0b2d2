"""Reads Keras' files: .keras and .weights.h5 of Keras 3, and the classic .h5 with weights by layer name."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import Found, arrange, config_layers, plain_name, variables


def read_keras(path: Path) -> Arrays:
    """Opens a Keras file, HDF5 or .keras; its arrays are named "layer/variable", such as "conv1_conv/kernel".

    Layers that Keras numbered by itself ("conv2d_94") are numbered anew in the order in which they were made, from
    "conv2d" on. Those of models within the model have their own names, as if they stood outside. The metadata
    "layers" lists the layers, JSON pairs of class and that name; "model_config" is the configuration of the model,
    where the file has one. No layer is made from it, and nothing in it runs.

    Raises:
      UserError: h5py is not installed, the file is broken or no Keras file, or its arrays lie in other files.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise UserError(f"reading {path} needs h5py: pip install 'jaxtl[keras]'.") from None
    try:
        content, config = _unpack(path)
        with h5py.File(_stream(path, content), "r") as file:
            _refuse_outside(file, path)
            config = config or _text(file.attrs.get("model_config", ""))
            root = file.get("model_weights", file)
            named = config_layers(config)
            if "layer_names" in root.attrs:
                found = list(_classic(root, path, {name for _, name in named}))
            else:
                found = list(_numbered(file, named))
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is a broken HDF5 file (truncated in the transfer?); get it again.") from None
    placed = arrange(found)
    if not placed:
        raise UserError(f"{path} is an HDF5 file without Keras layers; save it with Keras' save_weights.")
    names = {each.layer: name.rpartition("/")[0] for name, each in placed.items()}
    outline = named or list(dict.fromkeys((each.kind, each.layer) for each in found))
    outline = [(kind, names.get(name, name)) for kind, name in outline]
    return Arrays(
        "hdf5",
        {name: each.shape for name, each in placed.items()},
        {name: partial(_load, path, content, each.place) for name, each in placed.items()},
        {"model_config": config, "layers": json.dumps(outline)},
    )


def _refuse_outside(file: Any, path: Path) -> None:
    """Refuses a file with arrays that lie in other files: opening it would read whatever a stranger points to.

    Raises:
      UserError: names the first of them.
    """
    import h5py

    names: list[str] = []
    # Follows no link; what links within the file lead to is listed in its own place, too.
    file.visit_links(names.append)
    for name in names:
        link = file.get(name, getlink=True)
        found = file[name] if isinstance(link, h5py.HardLink) else None
        stored_elsewhere = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
        if stored_elsewhere or isinstance(link, h5py.ExternalLink):
            raise UserError(f"{path}: its array {name} lies in another file, which is not read; write it into this.")


def _unpack(path: Path) -> tuple[bytes, str]:
    """Gives the weights and the configuration of the model in a .keras file, which is a zip; empty for HDF5 itself."""
    if not zipfile.is_zipfile(path):
        return b"", ""
    with zipfile.ZipFile(path) as archive:
        return archive.read("model.weights.h5"), archive.read("config.json").decode()


def _stream(path: Path, content: bytes) -> Path | io.BytesIO:
    return io.BytesIO(content) if content else path


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


# What Keras keeps beside the layers: the states of the optimizer, of metrics and of random numbers.
_BESIDE = ("optimizer", "metrics", "_metrics", "compile_metrics", "seed_generator")


def _numbered(group: Any, named: list[tuple[str, str]]) -> Iterator[Found]:
    """Walks "layers/conv2d_1/vars/0"; the layer's own name is an attribute beside its arrays."""
    in_order = _names_by_key(named)
    for key in group:
        if key == "vars":
            arrays, place = group[key], group.name.rpartition("/")
            kind = plain_name(place[2])
            # The first files of Keras 3 have no such attribute, but keys by class in the order of the configuration.
            layer = _text(arrays.attrs.get("name", "")) or in_order.get(place[2], place[2])
            names = variables(kind, [arrays[str(index)].shape for index in range(len(arrays))])
            if not names and "layers" not in group:
                yield Found(place[0], kind, layer)
            for index, name in enumerate(names):
                array = arrays[str(index)]
                yield Found(place[0], kind, layer, name, array.name, array.shape)
        elif key not in _BESIDE and hasattr(group[key], "keys"):
            yield from _numbered(group[key], named)


def _names_by_key(named: list[tuple[str, str]]) -> dict[str, str]:
    """Gives the names of layers by the keys "conv2d", "conv2d_1" that Keras makes of their classes."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for kind, name in named:
        number = counts[kind] = counts.get(kind, -1) + 1
        names[f"{kind}_{number}" if number else kind] = name
    return names


def _classic(root: Any, path: Path, known: set[str]) -> Iterator[Found]:
    """Walks the layers that the attributes of the file or of its "model_weights" list."""
    listed = [_text(name) for name in root.attrs["layer_names"]]
    for outer in [*listed, *({"top_level_model_weights"} & set(root))]:
        names = [_text(name) for name in root[outer].attrs["weight_names"]]
        if not names:
            yield Found("", plain_name(outer), outer)
        for name in names:
            if name not in root[outer]:
                raise UserError(f"{path} names an array that it does not hold: {outer}/{name}.")
            if "seed_generator" in name:
                continue
            array, (scope, _, variable) = root[outer][name], _plain(name).rpartition("/")
            if variable == "depthwise_kernel" and f"{scope}/pointwise_kernel" not in {*map(_plain, names)}:
                variable = "kernel"
            layer = _innermost(scope, outer, known)
            inside = outer if layer != outer else ""
            yield Found(inside, plain_name(layer), layer, _variable(variable, layer), array.name, array.shape)


def _plain(name: str) -> str:
    """Takes the ":0" of TensorFlow off."""
    return name.partition(":")[0]


def _innermost(scope: str, outer: str, known: set[str]) -> str:
    """Gives the name of the layer that a weight is of: the outer one, or one within it that is a model itself."""
    if not scope or scope == outer or scope.endswith(f"/{outer}"):
        return outer
    parts = scope.split("/")
    endings = ["/".join(parts[start:]) for start in range(len(parts))]
    # Names may hold a slash, as in the first MobileNet V3: the longest one that the configuration has counts.
    return next((ending for ending in endings if ending in known), parts[-1])


def _variable(name: str, layer: str) -> str:
    """Writes the variables of earlier Keras as those of today: "conv1_W_1" is a kernel."""
    old = {"W": "kernel", "b": "bias", "W_1": "kernel", "b_1": "bias"}
    # Arrays without a name are numbered through the whole model.
    return old.get(name.removeprefix(f"{layer}_"), re.sub(r"^variable_\d+$", "variable", name.lower()))


def _load(path: Path, content: bytes, place: str) -> np.ndarray:
    import h5py

    with h5py.File(_stream(path, content), "r") as file:
        array = file[place][()]
        return array.view(ml_dtypes.bfloat16) if file[place].attrs.get("dtype") == "bfloat16" else array
