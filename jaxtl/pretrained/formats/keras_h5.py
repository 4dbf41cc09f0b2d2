"""Reads Keras' files: .keras and .weights.h5 of Keras 3, and the classic .h5 with weights by layer name."""

import io
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.arrays import Arrays

# Keras 3 numbers the arrays of a layer; how many there are tells which they are.
_BY_COUNT = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}


def read_keras(path: Path) -> Arrays:
    """Opens a Keras file, HDF5 or .keras; its arrays are named "layer/variable", such as "conv1_conv/kernel".

    Raises:
      UserError: h5py is not installed, or the file is broken or no Keras file.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise UserError(f"reading {path} needs h5py: pip install 'jaxtl[keras]'.") from None
    try:
        content, config = _unpack(path)
        with h5py.File(_stream(path, content), "r") as file:
            found = dict(_numbered(file, path) if "layers" in file else _classic(file, path))
            config = config or _text(file.attrs.get("model_config", ""))
    except (OSError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path} is a broken HDF5 file (truncated in the transfer?); get it again.") from None
    if not found:
        raise UserError(f"{path} is an HDF5 file without Keras layers; save it with Keras' save_weights.")
    shapes = {name: shape for name, (_, shape) in found.items()}
    loaders = {name: partial(_load, path, content, place) for name, (place, _) in found.items()}
    return Arrays("hdf5", shapes, dict(loaders), {"model_config": config})


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


Entry = tuple[str, tuple[str, tuple[int, ...]]]


def _numbered(file: Any, path: Path) -> Iterator[Entry]:
    """Walks "layers/conv2d_1/vars/0"; the layer's own name is an attribute beside its arrays."""
    for key, layer in file["layers"].items():
        arrays = layer.get("vars")
        if arrays is None or len(arrays) == 0:
            continue
        name, variables = arrays.attrs.get("name"), _BY_COUNT.get(len(arrays))
        if name is None or variables is None:
            raise UserError(f"{path}: the layer {key!r} does not say what it is; save it again as .h5.")
        for index, variable in enumerate(variables):
            array = arrays[str(index)]
            yield f"{name}/{variable}", (array.name, array.shape)


def _classic(file: Any, path: Path) -> Iterator[Entry]:
    """Walks the layers that the attributes of the file or of its "model_weights" list."""
    root = file.get("model_weights", file)
    for layer in root.attrs.get("layer_names", ()):
        layer = layer if isinstance(layer, str) else layer.decode()
        for name in root[layer].attrs["weight_names"]:
            name = name if isinstance(name, str) else name.decode()
            if name not in root[layer]:
                raise UserError(f"{path} names an array that it does not hold: {layer}/{name}.")
            array = root[layer][name]
            yield f"{layer}/{name.rpartition('/')[2].partition(':')[0]}", (array.name, array.shape)


def _load(path: Path, content: bytes, place: str) -> np.ndarray:
    import h5py

    with h5py.File(_stream(path, content), "r") as file:
        array = file[place][()]
        return array.view(ml_dtypes.bfloat16) if file[place].attrs.get("dtype") == "bfloat16" else array
