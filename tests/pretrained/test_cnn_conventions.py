"""What files of convolutional networks imply besides their arrays: pixels, epsilon, padding, older names."""

import numpy as np
import pytest
from real_packages import torchvision
from safetensors.numpy import save_file
from test_other_variants import weights_of

from jaxtl import pretrained
from jaxtl.preprocessing import HALF, IMAGENET
from jaxtl.pretrained import rename


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        # torchvision's pretrained functions turn the usual normalisation into this one.
        ("googlenet:aux=false", (224, 256, HALF)),
        ("inception_v3:aux=false", (299, 342, HALF)),
        ("mobilenet_v3_small", (224, 256, IMAGENET)),
        # The variant tells the size.
        ("efficientnet_b1", (240, 274, IMAGENET)),
    ],
)
def test_pixels_of_torchvision(name, pixels, tmp_path):
    opened = pretrained.open_weights(weights_of(name, tmp_path))
    size, resize, statistics = pixels
    assert opened.model.partition(":")[0] == name.partition(":")[0]
    assert (opened.pixels.size, opened.pixels.resize) == (size, resize)
    assert (opened.pixels.mean, opened.pixels.std) == statistics


@pytest.mark.parametrize(
    ("file", "fields", "mean"),
    [
        ("tf_mobilenetv3_small_100.safetensors", {"epsilon": 1e-3, "tf_padding": True}, HALF[0]),
        ("mobilenetv3_small_100_lamb.safetensors", {"epsilon": 1e-5}, IMAGENET[0]),
    ],
)
def test_the_name_of_a_file_of_timm_tells_what_its_arrays_do_not(file, fields, mean, tmp_path):
    weights_of("mobilenet_v3_small", tmp_path, convention="timm")
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    opened = pretrained.open_weights(str(tmp_path / file))
    assert {key: value for key, value in opened.unseen.items() if key != "momentum"} == fields
    assert opened.pixels.mean == mean


@pytest.mark.slow
def test_older_names_of_torchvisions_densenet_fill_the_same_leaves(tmp_path):
    torchvision()
    from torchvision.models import densenet

    state = densenet.DenseNet(8, (2, 2, 1, 1), 16, num_classes=5).state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    older = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): array
        for key, array in arrays.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    found = []
    for number, content in enumerate((arrays, older)):
        path = tmp_path / f"{number}.safetensors"
        save_file(content, path)
        opened = pretrained.open_weights(str(path))
        assert not opened.plan.unknown
        found.append({leaf: rename.fill(parts, opened.arrays) for leaf, parts in opened.plan.parts.items()})
    assert found[0].keys() == found[1].keys()
    for leaf in found[0]:
        np.testing.assert_array_equal(found[0][leaf], found[1][leaf])
