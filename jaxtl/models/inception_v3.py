"""Inception v3, https://arxiv.org/abs/1512.00567: its names and what others call its arrays."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtl.models.inception_v3_network import MIXED, STEM, Branch, InceptionV3
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows
from jaxtl.models.layers.conv_norm import rows
from jaxtl.preprocessing import HALF, PixelDefaults

VARIANTS: dict[str, dict[str, Any]] = {"inception_v3": {}}

PUBLISHED = {"inception_v3": "hf:timm/inception_v3.tv_in1k"}

BUILDERS = {package: {"inception_v3": "inception_v3"} for package in ("torchvision", "timm")}

MODEL = InceptionV3
IMAGE_SIZE = 299

ARCHITECTURES = (r"inception_?v3",)


def _layers(branches: list[Branch], pooled: int) -> Iterator[str]:
    """Gives the names of the convolutions of a block."""
    for branch in branches:
        for layer in branch:
            yield from [each[0] for each in layer] if isinstance(layer[0], tuple) else [layer[0]]
    if pooled:
        yield "branch_pool"


def _rows() -> Rows:
    found = rows([f"Conv2d_{part}" for part, *_ in STEM], [f"conv_{part}" for part, *_ in STEM])
    for name, (branches, _, pooled) in MIXED.items():
        layers = list(_layers(branches, pooled))
        found += rows([f"Mixed_{name}.{layer}" for layer in layers], [f"mixed{name}/{layer}" for layer in layers])
    return (*found, ("fc", "head", "dense"))


_AUXILIARY = (*rows(("AuxLogits.conv0", "AuxLogits.conv1"), ("aux/conv0", "aux/conv1")),)


def _keras() -> Rows:
    """Returns Keras' rows, where the layers have no names but numbers, in the order in which they are made."""
    targets = [target.removesuffix("/conv") for _, target, kind in _rows() if kind == "conv"]
    pairs = [(f"_{number}" if number else "", target) for number, target in enumerate(targets)]
    convs = [(f"conv2d{number}", f"{target}/conv", "conv") for number, target in pairs]
    norms = [(f"batch_normalization{number}", f"{target}/bn", "unscaled") for number, target in pairs]
    return (*convs, *norms, ("predictions", "head", "dense"))


KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        (*_rows(), *_AUXILIARY, ("AuxLogits.fc", "aux/fc", "dense")),
        # Its pretrained model turns ImageNet's normalisation into this one before anything else.
        pixels=PixelDefaults(HALF, "bilinear", 299 / 342),
        unused=COUNTERS,
    ),
    KeyMapping(
        "timm",
        "torch",
        _rows(),
        fields={"aux": False},
        pixels=PixelDefaults(HALF, "bicubic", 0.875),
        unused=COUNTERS,
    ),
    KeyMapping(
        "keras",
        "keras",
        _keras(),
        fields={"aux": False, "counts_padding": False, "momentum": 0.99, "unbiased": False},
        pixels=PixelDefaults(HALF, "bilinear", 0.875),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    if shapes["params/mixed7c/branch1x1/conv/kernel"][-1] != 320:
        raise ValueError("no Inception v3")
    return {"aux": "params/aux/fc/kernel" in shapes}


def torchvision_arguments(model: InceptionV3) -> dict[str, Any]:
    """Gives what torchvision's function takes besides: an exported file leaves the auxiliary head out."""
    del model
    return {"aux_logits": False}
