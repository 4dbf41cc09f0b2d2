"""Weights of another variant than the one asked for: one line says whose they are and what would fit."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtl import models, pretrained
from jaxtl.errors import UserError
from jaxtl.models import find_family
from jaxtl.pretrained import rename
from jaxtl.pretrained.load import abstract_variables

SMALL = ":width=8,hidden=8"
slow = pytest.mark.slow


def weights_of(name, folder, *, convention="torchvision"):
    """Writes a file of zeros in the names of a convention."""
    family, model = find_family(name), models.build(name, num_classes=5)
    variables = abstract_variables(model, max(64, model.min_training_size))
    leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in variables.items()}
    for key_mapping in family.KEY_MAPPINGS:
        if key_mapping.name == convention:
            try:
                arrays = rename.to_source_keys(leaves, key_mapping)
            except ValueError:
                continue
            save_file(arrays, folder / "model.safetensors")
            return str(folder / "model.safetensors")
    raise AssertionError(f"{convention} does not name all of {name}")


@pytest.mark.parametrize(
    ("theirs", "asked", "instead"),
    [
        pytest.param("vgg16" + SMALL, "vgg19" + SMALL, "hf:timm/vgg19.tv_in1k", marks=slow),
        pytest.param("vgg16_bn" + SMALL, "vgg16" + SMALL, "hf:timm/vgg16.tv_in1k", marks=slow),
        ("vgg11" + SMALL, "vgg11_bn" + SMALL, "hf:timm/vgg11_bn.tv_in1k"),
        pytest.param("resnet18:width=8", "resnet34:width=8", "hf:timm/resnet34.tv_in1k", marks=slow),
        pytest.param("resnet50:width=8", "resnet18:width=8", "hf:timm/resnet18.tv_in1k", marks=slow),
        pytest.param("mobilenet_v3_small", "mobilenet_v3_large", "hf:timm/mobilenetv3_large_100.ra_in1k", marks=slow),
        pytest.param("efficientnet_b0", "efficientnet_b1", "hf:timm/efficientnet_b1.ft_in1k", marks=slow),
    ],
)
def test_weights_of_another_variant_are_refused_in_one_line(theirs, asked, instead, tmp_path):
    opened = pretrained.open_weights(weights_of(theirs, tmp_path), model=asked)
    name = pretrained.resolve_model(opened, asked)
    model = models.build(name, num_classes=5, image_size=64)
    with pytest.raises(UserError) as caught:
        pretrained.load_pretrained(opened, model, image_size=64, rng=jax.random.key(0))
    plain = [name.partition(":")[0] for name in (theirs, asked)]
    assert str(caught.value) == (
        f"{opened.location} holds weights of {plain[0]}, not of {plain[1]}: give {plain[0]} as the name of the model, "
        f'or "auto", or weights of {plain[1]}, such as {instead}.'
    )
    assert caught.value.arguments == ("model",)


def test_weights_of_another_family_are_refused_in_one_line(tmp_path):
    opened = pretrained.open_weights(weights_of("vgg16" + SMALL, tmp_path), model="resnet18")
    with pytest.raises(UserError, match=r"holds weights of vgg16:.*, not of resnet18: give weights of resnet18, or"):
        pretrained.resolve_model(opened, "resnet18")
