"""Models by name: every variant builds, names carry fields, and errors name what is allowed."""

import re

import pytest

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.models.base import Family
from jaxtl.models.resnet import ResNet
from jaxtl.models.transformer import ViT


@pytest.mark.parametrize("name", models.names())
def test_every_variant_is_written_as_it_is_named(name):
    model = models.build(name, num_classes=3)
    assert model.num_classes == 3
    assert models.spec(type(model), models.fields_of(name)) == name


@pytest.mark.parametrize("family", models.families(), ids=lambda family: family.__name__.rpartition(".")[2])
def test_every_family_is_complete(family):
    assert all(hasattr(family, name) for name in (*Family.__annotations__, "infer"))
    for pattern in family.ARCHITECTURES:
        re.compile(pattern)


def test_fields_in_a_name_replace_those_of_the_variant():
    model = models.build("vit_s16:patch=8,registers=4,layer_scale=true,epsilon=1e-5,pool=mean", num_classes=0)
    assert (model.patch, model.registers, model.layer_scale, model.epsilon, model.pool) == (8, 4, True, 1e-5, "mean")
    assert (model.width, model.depth, model.heads, model.image_size) == (384, 12, 6, 224)
    assert models.build("resnet18:stages=1-2-3", num_classes=0).stages == (1, 2, 3)


def test_arguments_replace_what_the_name_says():
    model = models.build(
        "vit_s16:epsilon=1e-5",
        num_classes=2,
        image_size=384,
        epsilon=1e-4,
        options=models.ModelOptions(dropout=0.1, drop_path=0.2),
    )
    assert (model.image_size, model.epsilon, model.dropout, model.drop_path) == (384, 1e-4, 0.1, 0.2)


@pytest.mark.parametrize(
    "fields",
    [
        {"patch": 8, "width": 64, "depth": 2, "heads": 2, "image_size": 32, "gelu": "tanh", "registers": 2},
        {"patch": 16, "width": 192, "depth": 12, "heads": 3, "image_size": 224, "epsilon": 1e-12},
    ],
)
def test_a_written_name_builds_the_same_model(fields):
    assert models.build(models.spec(ViT, fields), num_classes=7) == ViT(num_classes=7, **fields)


def test_the_nearest_variant_gives_the_name():
    assert models.spec(ResNet, {"stages": (3, 4, 6, 3), "width": 32}) == "resnet50:width=32"
    third = {"layer_scale": True, "embed_prefix": False}
    small = {"patch": 16, "width": 384, "depth": 12, "heads": 6, "image_size": 224}
    assert models.spec(ViT, {**small, **third}) == "deit3_s16"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_b17", {}, r"unknown model 'vit_b17'; did you mean 'vit_b16'\? There are \d+ others\.$"),
        ("perceptron", {}, r"unknown model 'perceptron'\. The models are .*resnet50"),
        ("vgg16:head_pool", {}, "'head_pool' is no field with a value, such as patch=8"),
        ("vit_b16:patches=8", {}, "unknown field 'patches'; the fields are .*patch"),
        ("vit_b16:patch=eight", {}, "'eight' is no value for the field 'patch'"),
        ("vit_b16:layer_scale=yes", {}, "'yes' is no value for the field 'layer_scale'"),
        ("resnet18:stages=2-x", {}, "no value for the field 'stages'"),
        ("vit_b16", {"image_size": 225}, "image_size 225 is no multiple of patch 16"),
        ("vit_b16:heads=7", {}, "width 768 is no multiple of heads 7"),
        ("vit_b16:pool=max", {}, "pool 'max' is none of cls, mean"),
        ("vit_b16:class_token=false", {}, "pool 'cls' needs class_token"),
        ("resnet20_cifar", {"options": models.ModelOptions(scan=True)}, "has no scan; leave it at False"),
    ],
)
def test_names_that_are_wrong_say_what_is_allowed(name, options, message):
    with pytest.raises(UserError, match=message):
        models.build(name, num_classes=2, **options)


def test_published_weights_are_found_by_the_name_of_the_model():
    assert models.published_weights("resnet50") == "hf:timm/resnet50.tv_in1k"
    assert models.published_weights("vit_b16:gelu=tanh") == "hf:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    with pytest.raises(UserError, match="no published weights of resnet50v2 are known; of these they are: alexnet"):
        models.published_weights("resnet50v2")
    with pytest.raises(UserError, match="unknown model 'resnet51'"):
        models.published_weights("resnet51")
    places = [(family, name) for family in models.families() for name in getattr(family, "PUBLISHED", {})]
    assert len(places) > 25
    assert all(name in family.VARIANTS for family, name in places)
