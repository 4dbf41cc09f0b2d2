"""Keras' layers are read by name, whatever Keras numbered, nested or left unnamed, in all of its formats."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.keras_layers import config_layers, variables
from jaxtl.pretrained.formats.read import read

pytestmark = pytest.mark.filterwarnings("ignore")
layers = keras.layers


def _small():
    """Makes a model of all kinds of layers that have arrays, one of them within a model of its own."""
    inside = keras.Sequential([layers.Conv2D(4, 1, name="inner_conv"), layers.LayerNormalization(name="inner_norm")])
    images = keras.Input((8, 8, 3))
    x = layers.Normalization(name="pixels")(images)
    x = layers.SeparableConv2D(4, 3, use_bias=False, name="separable")(x)
    x = layers.SeparableConv2D(4, 3, name="separable_with_bias")(x)
    x = layers.BatchNormalization(scale=False, name="shifted")(x)
    x = inside(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GroupNormalization(2, name="groups")(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(2, name="top")(x))


SHAPES = {
    "pixels/mean": (3,),
    "pixels/variance": (3,),
    "pixels/count": (),
    "separable/depthwise_kernel": (3, 3, 3, 1),
    "separable/pointwise_kernel": (1, 1, 3, 4),
    "separable_with_bias/depthwise_kernel": (3, 3, 4, 1),
    "separable_with_bias/pointwise_kernel": (1, 1, 4, 4),
    "separable_with_bias/bias": (4,),
    **{f"shifted/{name}": (4,) for name in ("beta", "moving_mean", "moving_variance")},
    "inner_conv/kernel": (1, 1, 4, 4),
    "inner_conv/bias": (4,),
    "inner_norm/gamma": (4,),
    "inner_norm/beta": (4,),
    "depthwise/kernel": (3, 3, 4, 1),
    "depthwise/bias": (4,),
    "grouped/kernel": (1, 1, 2, 8),
    "grouped/bias": (8,),
    **{f"norm/{name}": (8,) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    "groups/gamma": (8,),
    "groups/beta": (8,),
    "top/kernel": (8, 2),
    "top/bias": (2,),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    module = _small()
    module.compile("adam", "mse")
    with pytest.MonkeyPatch.context():
        for index, variable in enumerate(module.weights):
            variable.assign(np.full(variable.shape, index))
        module.save(folder / "x.keras")
        module.save(folder / "x.h5")
        module.save_weights(folder / "x.weights.h5")
    return folder


@pytest.mark.parametrize("name", ["x.keras", "x.h5", "x.weights.h5"])
def test_all_kinds_of_layers(name, saved):
    opened = read(saved / name)
    assert opened.shapes == SHAPES
    reference = read(saved / "x.h5")
    for array in SHAPES:
        np.testing.assert_array_equal(opened[array], reference[array])
    kinds = [kind for kind, _ in json.loads(opened.metadata["layers"])]
    assert {"separable_conv2d", "global_average_pooling2d", "dense"} <= set(kinds)


def test_layers_that_keras_numbered_are_counted_from_the_first(tmp_path):
    def tower():
        images = keras.Input((8, 8, 3))
        first = layers.Conv2D(2, 1)
        second = layers.Conv2D(5, 1)
        # Listed in another order than they were made in.
        return keras.Model(images, layers.BatchNormalization()(first(second(images))))

    tower()
    module = tower()
    names = [layer.name for layer in module.layers]
    assert not {"conv2d", "conv2d_1"} & set(names)
    for ending in (".weights.h5", ".h5", ".keras"):
        path = tmp_path / f"x{ending}"
        (module.save_weights if "weights" in ending else module.save)(path)
        shapes = read(path).shapes
        assert shapes["conv2d/kernel"] == (1, 1, 5, 2)
        assert shapes["conv2d_1/kernel"] == (1, 1, 3, 5)
        assert shapes["batch_normalization/gamma"] == (2,)
        assert len(shapes) == 8


def test_names_with_a_slash_and_variables_of_the_first_keras(tmp_path):
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"Conv", b"Conv/BatchNorm", b"block1_conv1", b"dw", b"sep"]
        weights = {
            "Conv": ["Conv/kernel:0"],
            "Conv/BatchNorm": ["Conv/BatchNorm/gamma:0"],
            "block1_conv1": ["block1_conv1_W_1:0", "block1_conv1_b_1:0"],
            "dw": ["dw/depthwise_kernel:0"],
            "sep": ["sep/depthwise_kernel:0", "sep/pointwise_kernel:0"],
        }
        for index, (layer, names) in enumerate(weights.items()):
            group = file.require_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group[name] = np.float32([index])
    opened = read(path)
    assert set(opened) == {
        *("Conv/kernel", "Conv/BatchNorm/gamma", "block1_conv1/kernel", "block1_conv1/bias", "dw/kernel"),
        *("sep/depthwise_kernel", "sep/pointwise_kernel"),
    }
    assert opened["Conv/BatchNorm/gamma"] == [1]


def test_layers_of_a_class_that_is_not_known_keep_the_numbers_of_their_arrays():
    assert variables("capsule", [(2, 3), (3,)]) == ("0", "1")
    assert variables("dense", [(2, 3)] * 5) == ("0", "1", "2", "3", "4")
    assert variables("batch_normalization", [(3,)] * 3) == ("beta", "moving_mean", "moving_variance")


def test_a_configuration_that_is_none_lists_no_layers():
    assert config_layers("") == config_layers("{") == config_layers("[1]") == config_layers('{"config": null}') == []


@pytest.mark.parametrize("name", ["x.keras", "x.h5", "x.weights.h5"])
def test_truncated_files_are_refused(name, saved, tmp_path):
    content = (saved / name).read_bytes()
    path = tmp_path / name
    for share in (0.3, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError, match="broken"):
            read(path)


def test_a_zip_whose_weights_are_no_hdf5_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "hello")
    with pytest.raises(UserError, match="broken HDF5"):
        read(path)


def test_a_lambda_is_never_made(tmp_path, monkeypatch):
    images = keras.Input((4, 4, 3))
    x = layers.Lambda(lambda batch: batch / 255)(images)
    keras.Model(images, layers.Conv2D(2, 1, name="conv")(x)).save(tmp_path / "x.keras")
    monkeypatch.setattr("marshal.loads", lambda *_: pytest.fail("code was loaded"))
    monkeypatch.setattr(layers.Lambda, "from_config", lambda *_: pytest.fail("a layer was made"))
    opened = read(tmp_path / "x.keras")
    assert set(opened) == {"conv/kernel", "conv/bias"}
    assert ["lambda", "lambda"] in [[kind, kind] for kind, _ in json.loads(opened.metadata["layers"])]


def _lies_elsewhere(kind, group, folder):
    if kind == "link":
        group["conv/kernel:0"] = h5py.ExternalLink(str(folder / "secret.h5"), "/secret")
    elif kind == "linked group":
        group["conv"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")
    elif kind == "storage":
        place = [(str(folder / "secret.h5"), 0, 8)]
        group.create_dataset("conv/kernel:0", (2,), np.float32, external=place)
    else:
        layout = h5py.VirtualLayout((2,), np.float32)
        layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret", (2,))
        group.create_virtual_dataset("conv/kernel:0", layout)


@pytest.mark.parametrize("kind", ["link", "linked group", "storage", "virtual"])
def test_arrays_in_other_files_are_refused(kind, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.float32([1, 2])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("conv")
        file.attrs["layer_names"], group.attrs["weight_names"] = ["conv"], ["conv/kernel:0"]
        _lies_elsewhere(kind, group, tmp_path)
    with pytest.raises(UserError, match=r"x\.h5: its array conv/conv.* lies in another file"):
        read(tmp_path / "x.h5")


def test_links_within_a_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("conv")
        file.attrs["layer_names"], group.attrs["weight_names"] = ["conv"], ["conv/kernel:0"]
        file["elsewhere"] = np.float32([1, 2])
        group["conv/kernel:0"] = h5py.SoftLink("/elsewhere")
    assert read(tmp_path / "x.h5")["conv/kernel"].tolist() == [1, 2]
