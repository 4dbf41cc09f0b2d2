"""Every variant of the convolutional families against the real network of its size, by shapes alone.

The real ones are made on torch's meta device, which allocates nothing; their modules also tell what no array shows.
"""

from functools import cache

import pytest
import torch
import transformers
from real_packages import timm, torchvision

from jaxtl import models
from jaxtl.pretrained import rename
from jaxtl.pretrained.architecture import fields_of_name
from jaxtl.pretrained.load import abstract_variables

slow = pytest.mark.slow

_SAME = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *("densenet121", "densenet161", "densenet169", "densenet201", "inception_v3"),
)
_CONVNEXT = {"convnext_t": "convnext_tiny", "convnext_s": "convnext_small", "convnext_b": "convnext_base"}
_CONVNEXT |= {"convnext_l": "convnext_large"}
TORCHVISION = {
    **{name: name for name in _SAME},
    **{name: name for name in ("alexnet", "googlenet", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")},
    **{name: name for name in (f"efficientnet_b{number}" for number in range(8))},
    **{name: name for name in (f"efficientnet_v2_{size}" for size in "sml")},
    **_CONVNEXT,
}
TIMM = {
    **{name: (name,) for name in _SAME},
    **{name: (name,) for name in ("resnet50d", "resnet101d", "seresnet50", "seresnext50_32x4d")},
    "mobilenet_v2": ("mobilenetv2_100",),
    "mobilenet_v3_large": ("mobilenetv3_large_100", "tf_mobilenetv3_large_100"),
    "mobilenet_v3_small": ("mobilenetv3_small_100", "tf_mobilenetv3_small_100"),
    **{name: (name, f"tf_{name}") for name in (f"efficientnet_b{number}" for number in range(8))},
    **{f"efficientnet_v2_{size}": (f"efficientnetv2_{size}", f"tf_efficientnetv2_{size}") for size in "sml"},
    **{name: (name,) for name in ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano")},
    **{name: (theirs,) for name, theirs in _CONVNEXT.items()},
    "convnext_xl": ("convnext_xlarge",),
}
# How much wider and deeper than B0, and the width before the head.
_EFFICIENTNETS = {
    "efficientnet_b0": (1.0, 1.0, 1280),
    "efficientnet_b2": (1.1, 1.2, 1408),
    "efficientnet_b7": (2.0, 3.1, 2560),
}
TRANSFORMERS = {
    "mobilenet_v2": lambda: ("MobileNetV2", transformers.MobileNetV2Config(num_labels=1000)),
    **{
        name: lambda width=width, depth=depth, hidden=hidden: (
            "EfficientNet",
            transformers.EfficientNetConfig(
                num_labels=1000, width_coefficient=width, depth_coefficient=depth, hidden_dim=hidden
            ),
        )
        for name, (width, depth, hidden) in _EFFICIENTNETS.items()
    },
    "convnext_t": lambda: ("ConvNext", transformers.ConvNextConfig(num_labels=1000)),
    "convnext_l": lambda: (
        "ConvNext",
        transformers.ConvNextConfig(num_labels=1000, depths=[3, 3, 27, 3], hidden_sizes=[192, 384, 768, 1536]),
    ),
    **{
        name: lambda depths=depths, sizes=sizes, layer=layer: (
            "ResNet",
            transformers.ResNetConfig(num_labels=1000, depths=depths, hidden_sizes=sizes, layer_type=layer),
        )
        for name, depths, sizes, layer in (
            ("resnet18", [2, 2, 2, 2], [64, 128, 256, 512], "basic"),
            ("resnet101", [3, 4, 23, 3], [256, 512, 1024, 2048], "bottleneck"),
        )
    },
}


@cache
def _ours(name):
    model = models.build(name, num_classes=1000)
    return {path: leaf.shape for path, leaf in abstract_variables(model, model.image_size).items()}


def _agrees(module, name, architecture=""):
    """Compares a real network with ours of that name; returns the name with all fields."""
    theirs = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    family, key_mapping = rename.recognise(theirs)
    plan = rename.plan(theirs, key_mapping)
    assert not plan.unknown
    shapes = plan.shapes(theirs)
    expected = _ours(name)
    if name == "inception_v3" and "params/aux/fc/kernel" not in shapes:
        expected = {path: shape for path, shape in expected.items() if not path.split("/")[1].startswith("aux")}
    assert shapes == expected
    if key_mapping.refine is not None:
        key_mapping = key_mapping.refine(shapes)
    fields = {**family.infer(shapes), **key_mapping.fields, **fields_of_name(family, architecture)}
    found = models.spec(family.MODEL, fields)
    assert found.partition(":")[0] == name
    return models.build(found, num_classes=1000)


def _conventions(module):
    """Reads off a network the epsilons and kept shares of its normalisations, and whether it pads as TensorFlow."""
    norms = [layer for layer in module.modules() if "Norm" in type(layer).__name__ and hasattr(layer, "eps")]
    shares = {round(1 - layer.momentum, 6) for layer in norms if hasattr(layer, "momentum")}
    return {layer.eps for layer in norms}, shares, any("Same" in type(layer).__name__ for layer in module.modules())


def _same_conventions(model, module):
    epsilons, kept, tensorflow = _conventions(module)
    assert epsilons == ({model.epsilon} if epsilons else set())
    assert getattr(model, "tf_padding", False) == tensorflow
    if kept:
        assert kept == {model.momentum}


# Laying out our own takes a second, and several for the deep ones.
FAST = ("alexnet", "convnext_atto")


def _marked(names):
    return [pytest.param(name, marks=() if name in FAST else slow) for name in names]


@pytest.mark.parametrize("name", _marked(TORCHVISION))
def test_torchvision(name):
    plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    make = getattr(torchvision().models, TORCHVISION[name])
    with torch.device("meta"):
        module = make(**plain)
    model = _agrees(module, name)
    _same_conventions(model, module)


@pytest.mark.parametrize("name", _marked(TIMM))
def test_timm(name):
    for architecture in TIMM[name]:
        with torch.device("meta"):
            module = timm().create_model(architecture)
        model = _agrees(module, name, architecture)
        _same_conventions(model, module)


@pytest.mark.parametrize("name", _marked(TRANSFORMERS))
def test_transformers(name):
    kind, config = TRANSFORMERS[name]()
    with torch.device("meta"):
        module = getattr(transformers, f"{kind}ForImageClassification")(config)
    model = _agrees(module, name)
    # Its shares are the wrong way round and its padding is no layer; the last epsilon of its ConvNeXts differs.
    if kind != "ConvNext":
        assert _conventions(module)[0] == {model.epsilon}


def test_every_variant_is_compared_with_a_real_network():
    families = {"alexnet", "convnext", "densenet", "efficientnet", "efficientnet_v2", "googlenet", "inception_v3"}
    families |= {"mobilenet_v2", "mobilenet_v3", "resnet", "vgg"}
    variants = {
        name
        for family in models.families()
        if family.__name__.rpartition(".")[2] in families
        for name in family.VARIANTS
    }
    assert variants == {*TORCHVISION, *TIMM}
