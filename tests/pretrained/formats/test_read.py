"""Each format is read as it was written, and each kind of broken or hostile file is refused in plain words."""

import io
import json
import os
import pickle
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.read import read

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.float32([1.5]),
    "count": np.array(7, np.int64),
    "half": np.float16([0.25, -2]),
    "brain": np.array([1.5, -3], ml_dtypes.bfloat16),
}


def _same(opened, format_name: str, arrays=ARRAYS) -> None:
    assert opened.format == format_name
    assert set(opened) == set(arrays)
    for name, array in arrays.items():
        assert opened.shapes[name] == array.shape
        assert opened[name].dtype == array.dtype
        np.testing.assert_array_equal(opened[name], array)


def test_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"made": "here"})
    opened = read(path)
    _same(opened, "safetensors")
    assert opened.metadata == {"made": "here"}


@pytest.mark.parametrize("length", [0x80, 0x4B50, 0x3C3C], ids=["pickle", "zip", "web page"])
def test_a_header_length_that_looks_like_another_format(length, tmp_path):
    path = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode().ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + bytes([3, 4]))
    _same(read(path), "safetensors", {"a": np.array([3, 4], np.uint8)})


def test_safetensors_in_several_files(tmp_path):
    names = list(ARRAYS)
    save_file({name: ARRAYS[name] for name in names[:2]}, tmp_path / "1.safetensors")
    save_file({name: ARRAYS[name] for name in names[2:]}, tmp_path / "2.safetensors")
    weight_map = {name: f"{1 if i < 2 else 2}.safetensors" for i, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    _same(read(index), "safetensors")

    index.write_text(json.dumps({"weight_map": weight_map | {"z": "2.safetensors"}}))
    with pytest.raises(UserError, match="not in their files: z"):
        read(index)
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(UserError, match=r"not beside it: 2\.safetensors"):
        read(index)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    path = tmp_path / "x.npz"
    arrays = {name: array for name, array in ARRAYS.items() if name != "brain"}
    save(path, **arrays)
    _same(read(path), "npz", arrays)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x, "epoch": 3}, lambda x: {"model": x}])
def test_torch(wrap, legacy, tmp_path):
    path = tmp_path / "x.bin"
    tensors = {name: torch.tensor(np.asarray(array, np.float32)).to(torch.float32) for name, array in ARRAYS.items()}
    tensors["half"], tensors["brain"] = tensors["half"].half(), tensors["brain"].bfloat16()
    tensors["count"] = tensors["count"].long()
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)
    _same(read(path), "torch")


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "whole model"])
def test_classic_keras_files_of_keras_2(whole, tmp_path):
    path = tmp_path / "resnet50_weights.h5"
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        # Names as bytes, with TensorFlow's ":0", and layers without weights among them.
        root.attrs["layer_names"] = [b"input_1", b"conv1_conv"]
        root.create_group("input_1").attrs["weight_names"] = []
        layer = root.create_group("conv1_conv")
        layer.attrs["weight_names"] = [b"conv1_conv/kernel:0", b"conv1_conv/bias:0"]
        layer["conv1_conv/kernel:0"], layer["conv1_conv/bias:0"] = kernel, np.float32([1, 2, 3])
    _same(read(path), "hdf5", {"conv1_conv/kernel": kernel, "conv1_conv/bias": np.float32([1, 2, 3])})


def test_hdf5_without_layers_is_an_error(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(UserError, match="without Keras layers"):
        read(path)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch", "pickle", "legacy"])
def test_a_pickle_with_code_is_refused_and_not_run(form, tmp_path):
    path, witness = tmp_path / "x.pth", tmp_path / "witness"
    content = {"state_dict": {"w": torch.ones(2), "x": Hostile(witness)}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(UserError, match="can run code when read"):
        read(path)
    assert not witness.exists()


def test_an_npz_with_objects_is_refused_and_not_run(tmp_path):
    path, witness = tmp_path / "x.npz", tmp_path / "witness"
    np.savez(path, w=np.ones(2), x=np.array([Hostile(witness)], dtype=object))
    with pytest.raises(UserError, match="'x' holds Python objects"):
        read(path)
    assert not witness.exists()


def _safetensors(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


BROKEN = {
    "empty": (b"", "is empty"),
    "web page": (b"<!DOCTYPE html><html><head>Sign in", "is a web page"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
    "text": (b"hello, I am no file of weights", "no weight file that can be read"),
    "header longer than the file": ((1 << 31).to_bytes(8, "little") + b"{}", "broken safetensors"),
    "header that is no JSON": (_safetensors(b'{"a": '), "broken safetensors"),
    "header without offsets": (_safetensors({"a": {"dtype": "F32", "shape": [1]}}), "broken safetensors"),
    "offsets past the end": (
        _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        "broken safetensors",
    ),
    "offsets that do not fit the shape": (
        _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        "broken safetensors",
    ),
    "negative offsets": (
        _safetensors({"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}, b"\0" * 8),
        "broken safetensors",
    ),
    "unknown type": (
        _safetensors({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
        "'a' has the type F4",
    ),
    "half a zip": (b"PK\x03\x04" + b"\0" * 60, r"broken \.npz"),
    "half a pickle": (b"\x80\x02}q\x00(X\x03", "broken PyTorch|can run code"),
    "half an HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "broken HDF5"),
}


def test_half_a_file_of_keras_is_called_by_its_own_name(tmp_path):
    (tmp_path / "network.keras").write_bytes(BROKEN["half a zip"][0])
    with pytest.raises(UserError, match=r"network\.keras is a broken \.keras file"):
        read(tmp_path / "network.keras")


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_and_described(kind, tmp_path):
    content, message = BROKEN[kind]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.pth"])
def test_truncated_files_are_refused(name, tmp_path):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, a=np.ones(1000))
    elif name.endswith(".pth"):
        torch.save({"a": torch.ones(1000)}, path)
    else:
        save_file({"a": np.ones(1000)}, path)
    content = path.read_bytes()
    for share in (0.3, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError, match="broken"):
            read(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(1000)}, path)
    opened = read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="became shorter"):
        opened["a"]


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read(path)


def test_a_torch_file_without_tensors_is_an_error(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="no state dict"):
        read(path)


def test_an_npz_of_other_files_is_an_error(tmp_path):
    path = tmp_path / "x.npz"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "hello")
    path.write_bytes(content.getvalue())
    with pytest.raises(UserError, match=r"broken \.npz"):
        read(path)
