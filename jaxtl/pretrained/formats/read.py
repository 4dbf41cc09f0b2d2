"""Reads weight files lazily: the header at once, each array when it is asked for. Nothing in a file is executed."""

import json
import math
import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.arrays import Arrays, Loader


def read(path: Path) -> Arrays:
    """Opens a weight file; its format is found from its first bytes, whatever it is called.

    Raises:
      UserError: the file is missing, empty, truncated, of no format that can be read, or holds more than plain arrays.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"cannot read the weight file {path}: {error.strerror}.") from None
    if not start:
        raise UserError(f"the weight file {path} is empty; get it again.")
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    # Before the others: such a file begins with a length, whose bytes may look like the mark of any of them.
    if start[8:9] == b"{" and start[4:8] == b"\0\0\0\0":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        return _read_zip(path)
    if start.startswith(b"\x89HDF"):
        return _read_keras(path)
    if start.startswith(b"\x80"):
        return _read_torch(path)
    if start.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, no weight file: the address was that of a page; use the download link.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is only a pointer of git-lfs; run `git lfs pull` where it came from.")
    known = "safetensors, .npz, PyTorch's .pth, or Keras' .keras and .h5"
    raise UserError(f"{path} is no weight file that can be read: {known}.")


_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def _read_safetensors(path: Path) -> Arrays:
    """Reads the header; the layout is https://github.com/huggingface/safetensors#format."""
    # Not through the library: it maps the file, and the touched pages count as memory of the process.
    size = os.path.getsize(path)
    broken = UserError(f"{path} is a broken safetensors file (truncated in the transfer?); get it again.")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise broken
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            entries = {
                name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise broken from None
    shapes, loaders = {}, {}
    for name, (kind, shape, begin, end) in entries.items():
        if kind not in _SAFETENSORS_DTYPES:
            raise UserError(
                f"{path}: the array {name!r} has the type {kind}, which is none of {', '.join(_SAFETENSORS_DTYPES)}."
            )
        dtype = _SAFETENSORS_DTYPES[kind]
        if not 0 <= begin <= end <= size - 8 - length or end - begin != math.prod(shape) * dtype.itemsize:
            raise broken
        shapes[name] = shape
        loaders[name] = _slice_loader(path, 8 + length + begin, shape, dtype)
    return Arrays("safetensors", shapes, loaders, metadata)


def _slice_loader(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Loader:
    def load() -> np.ndarray:
        array = np.empty(shape, dtype)
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            view = memoryview(array.reshape(-1).view(np.uint8).data)
            while len(view):
                count = file.readinto(view)
                if not count:
                    raise UserError(f"{path} became shorter while it was read; get it again.")
                view = view[count:]
        return array

    return load


def _read_sharded(path: Path) -> Arrays:
    """Reads the files that an index of the Hugging Face kind names, as one."""
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError):
        raise UserError(f"{path} is no index of weight files; it must map names to files under 'weight_map'.") from None
    missing = [name for name in files if not (path.parent / name).is_file()]
    if missing:
        raise UserError(f"{path} names files that are not beside it: {', '.join(missing)}.")
    shards = {name: read(path.parent / name) for name in files}
    lost = [name for name, file in weight_map.items() if name not in shards[file].shapes]
    if lost:
        raise UserError(f"{path} names arrays that are not in their files: {', '.join(lost[:5])}.")
    shapes = {name: shards[file].shapes[name] for name, file in weight_map.items()}
    loaders = {name: shards[file].loaders[name] for name, file in weight_map.items()}
    first = shards[files[0]]
    return Arrays(first.format, shapes, loaders, first.metadata)


def _read_zip(path: Path) -> Arrays:
    """Reads a zip file: numpy's npz, or what torch.save writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if any(member.endswith("/data.pkl") for member in members):
                return _read_torch(path)
            if "model.weights.h5" in members:
                return _read_keras(path)
            shapes, loaders = {}, {}
            for member in members:
                name = member.removesuffix(".npy")
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    reader = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = reader(file)
                if dtype.hasobject:
                    raise UserError(
                        f"{path}: {name!r} holds Python objects, which can run code when read; save plain arrays."
                    )
                shapes[name] = shape
                loaders[name] = _npz_loader(path, member)
    except (zipfile.BadZipFile, ValueError, EOFError):
        kind = ".keras" if path.suffix == ".keras" else ".npz"
        raise UserError(f"{path} is a broken {kind} file (truncated in the transfer?); get it again.") from None
    return Arrays("npz", shapes, loaders)


def _npz_loader(path: Path, member: str) -> Loader:
    def load() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return load


def _read_keras(path: Path) -> Arrays:
    from jaxtl.pretrained.formats.keras_h5 import read_keras

    return read_keras(path)


def _read_torch(path: Path) -> Arrays:
    from jaxtl.pretrained.formats.torch_pth import read_torch

    return read_torch(path)
