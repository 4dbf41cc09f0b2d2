"""ResNet v1.5 as in torchvision (stride on the 3 x 3 convolution), ResNet-D and Keras' ResNet: variants and names."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, refuse_timm_changes
from jaxtl.models.layers.residual_block import ResNet
from jaxtl.preprocessing import CAFFE, IMAGENET, PixelDefaults

VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"stages": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"stages": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"stages": (3, 4, 6, 3)},
    "resnet101": {"stages": (3, 4, 23, 3)},
    "resnet152": {"stages": (3, 8, 36, 3)},
    "resnet50d": {"stages": (3, 4, 6, 3), "deep_stem": True, "average_shortcut": True},
    "resnet101d": {"stages": (3, 4, 23, 3), "deep_stem": True, "average_shortcut": True},
    "resnext50_32x4d": {"stages": (3, 4, 6, 3), "cardinality": 32, "base_width": 4},
    "resnext101_32x8d": {"stages": (3, 4, 23, 3), "cardinality": 32, "base_width": 8},
    "wide_resnet50_2": {"stages": (3, 4, 6, 3), "base_width": 128},
    "wide_resnet101_2": {"stages": (3, 4, 23, 3), "base_width": 128},
    "seresnet50": {"stages": (3, 4, 6, 3), "squeeze_excite": True},
    "seresnext50_32x4d": {"stages": (3, 4, 6, 3), "cardinality": 32, "base_width": 4, "squeeze_excite": True},
}

# torchvision's own where it has the network: what was trained plainly is what transfers best
# (https://arxiv.org/abs/1805.08974).
PUBLISHED = {
    **{f"resnet{depth}": f"hf:timm/resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)},
    **{f"resnet{depth}d": f"hf:timm/resnet{depth}d.ra2_in1k" for depth in (50, 101)},
    **{name: f"hf:timm/{name}.tv_in1k" for name in ("resnext50_32x4d", "resnext101_32x8d")},
    **{name: f"hf:timm/{name}.tv_in1k" for name in ("wide_resnet50_2", "wide_resnet101_2")},
    "seresnet50": "hf:timm/seresnet50.ra2_in1k",
    "seresnext50_32x4d": "hf:timm/seresnext50_32x4d.racm_in1k",
}

MODEL = ResNet
IMAGE_SIZE = 224

BUILDERS = {
    "torchvision": {
        name: name
        for name, fields in VARIANTS.items()
        if not fields.get("deep_stem") and not fields.get("squeeze_excite")
    }
}

# timm, torchvision and Keras. Those of timm with another letter have another stem, pooling or block.
ARCHITECTURES = (
    r"(tv_)?resnet(18|26|34|50|101|152|200)",
    r"resnet(18|26|34|50|101|152|200)d",
    r"(tv_)?resnext(50_32x4d|101_32x4d|101_32x8d|101_64x4d)",
    r"wide_resnet(50|101)_2",
    r"seresnet(18|34|50|101|152)",
    r"seresnext(50|101)_32x4d",
)

TELLTALES = {
    r"layer\d+\..*\.se\.conv\..*": "ECA-ResNet",
    r"layer\d+\..*\.se_module\..*": "SE-ResNet of the kind that timm calls legacy",
}

_TORCHVISION = (
    ("conv1", "conv1", "conv"),
    ("bn1", "bn1", "batchnorm"),
    ("layer{s}.{b}.conv{k}", "layer{s}.{b}/conv{k}", "conv"),
    ("layer{s}.{b}.bn{k}", "layer{s}.{b}/bn{k}", "batchnorm"),
    ("layer{s}.{b}.se.fc1", "layer{s}.{b}/se/reduce", "pixel"),
    ("layer{s}.{b}.se.fc2", "layer{s}.{b}/se/expand", "pixel"),
    ("layer{s}.{b}.downsample.0", "layer{s}.{b}/downsample_conv", "conv"),
    ("layer{s}.{b}.downsample.1", "layer{s}.{b}/downsample_bn", "batchnorm"),
    ("fc", "head", "dense"),
)

# The pooling of a ResNet-D is a layer of its own, so the layers after it count one more.
_TIMM_D = (
    ("conv1.0", "conv1_0", "conv"),
    ("conv1.1", "bn1_0", "batchnorm"),
    ("conv1.3", "conv1_1", "conv"),
    ("conv1.4", "bn1_1", "batchnorm"),
    ("conv1.6", "conv1_2", "conv"),
    ("bn1", "bn1_2", "batchnorm"),
    ("layer{s}.{b}.conv{k}", "layer{s}.{b}/conv{k}", "conv"),
    ("layer{s}.{b}.bn{k}", "layer{s}.{b}/bn{k}", "batchnorm"),
    ("layer{s}.{b}.downsample.1", "layer{s}.{b}/downsample_conv", "conv"),
    ("layer{s}.{b}.downsample.2", "layer{s}.{b}/downsample_bn", "batchnorm"),
    ("fc", "head", "dense"),
)

_HUGGINGFACE_LAYER = "encoder.stages.{s}.layers.{b}."
_HUGGINGFACE = (
    ("embedder.embedder.convolution", "conv1", "conv"),
    ("embedder.embedder.normalization", "bn1", "batchnorm"),
    (_HUGGINGFACE_LAYER + "layer.{k}.convolution", "layer{s+1}.{b}/conv{k+1}", "conv"),
    (_HUGGINGFACE_LAYER + "layer.{k}.normalization", "layer{s+1}.{b}/bn{k+1}", "batchnorm"),
    (_HUGGINGFACE_LAYER + "shortcut.convolution", "layer{s+1}.{b}/downsample_conv", "conv"),
    (_HUGGINGFACE_LAYER + "shortcut.normalization", "layer{s+1}.{b}/downsample_bn", "batchnorm"),
    ("classifier.1", "head", "dense"),
)

# The shortcut is number 0 of a block; it must be tried before the rows for any number.
_KERAS = (
    ("conv1_conv", "conv1", "bgr"),
    ("conv1_bn", "bn1", "batchnorm"),
    ("conv{s+1}_block{b+1}_0_conv", "layer{s}.{b}/downsample_conv", "conv"),
    ("conv{s+1}_block{b+1}_0_bn", "layer{s}.{b}/downsample_bn", "batchnorm"),
    ("conv{s+1}_block{b+1}_{k}_conv", "layer{s}.{b}/conv{k}", "conv"),
    ("conv{s+1}_block{b+1}_{k}_bn", "layer{s}.{b}/bn{k}", "batchnorm"),
    ("predictions", "head", "dense"),
)

_PIXELS = PixelDefaults(IMAGENET, "bilinear", 224 / 256)
# Keras feeds this model BGR in 0..255 with the mean taken off; the rule for its first layer turns the channels round.
_CAFFE = PixelDefaults(CAFFE, "bilinear", 224 / 256)

KEY_MAPPINGS = (
    KeyMapping("torchvision", "torch", _TORCHVISION, pixels=_PIXELS, unused=COUNTERS),
    KeyMapping(
        "timm",
        "torch",
        _TIMM_D,
        fields={"deep_stem": True, "average_shortcut": True},
        pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
        unused=COUNTERS,
    ),
    KeyMapping("huggingface", "torch", _HUGGINGFACE, prefixes=("resnet.", ""), pixels=_PIXELS, unused=COUNTERS),
    KeyMapping(
        "keras",
        "keras",
        _KERAS,
        fields={"stride_first": True, "conv_bias": True, "epsilon": 1.001e-5, "momentum": 0.99, "unbiased": False},
        pixels=_CAFFE,
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    bottleneck = "params/layer1.0/conv3/kernel" in shapes
    # Of a bottleneck the first convolutions may be wider or narrower than the network is.
    width = (
        shapes["params/layer1.0/conv3/kernel"][-1] // 4 if bottleneck else shapes["params/layer1.0/conv1/kernel"][-1]
    )
    *_, grouped, inner = shapes["params/layer1.0/conv2/kernel"]
    fields: dict[str, Any] = {
        "stages": count_blocks(shapes),
        "bottleneck": bottleneck,
        "width": width,
        "cardinality": inner // grouped,
        "base_width": 64 * grouped // width,
        "squeeze_excite": "params/layer1.0/se/reduce/kernel" in shapes,
        "deep_stem": "params/conv1_0/kernel" in shapes,
        "conv_bias": "params/layer1.0/conv1/bias" in shapes,
    }
    widths = inner_widths(shapes)
    if not bottleneck:
        width = shapes["params/layer1.0/conv2/kernel"][-1]
        fields |= {"width": width, "cardinality": 1, "base_width": 64}
    # Where each stage has twice the channels of the one before, their number is that of the other fields.
    firsts = [widths[sum(fields["stages"][:stage])] for stage in range(len(fields["stages"]))]
    whole = [firsts[0] * 2**stage for stage, blocks in enumerate(fields["stages"]) for _ in range(blocks)]
    if list(widths) == whole and (bottleneck or widths[0] == width):
        return fields
    return {**fields, "cardinality": 1, "base_width": 64, "inner": widths}


def inner_widths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Reads the channels between the convolutions of each block off the paths "params/layer{s}.{b}/conv1/kernel"."""
    found = {
        tuple(int(part) for part in match.groups()): shape[-1]
        for path, shape in shapes.items()
        if (match := re.fullmatch(r"params/layer(\d+)\.(\d+)/conv1/kernel", path))
    }
    return tuple(found[block] for block in sorted(found))


def count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Counts the blocks of each stage, from the paths "params/layer{s}.{b}/conv1/kernel"."""
    paths = [re.fullmatch(r"params/layer(\d+)\.\d+/conv1/kernel", path) for path in shapes]
    stages = Counter(int(match[1]) for match in paths if match)
    return tuple(stages[stage] for stage in sorted(stages))


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is of a ResNet with other proportions than the published ones.
    """
    if config.get("model_type") != "resnet":
        return None
    sizes, bottleneck = config["hidden_sizes"], config["layer_type"] == "bottleneck"
    width = sizes[0] // 4 if bottleneck else sizes[0]
    doubled = [sizes[0] * 2**stage for stage in range(len(sizes))]
    if sizes != doubled or config["embedding_size"] != width or config["downsample_in_first_stage"]:
        raise UserError(
            "config.json: only ResNets whose stages double in width, from an embedding as wide as the first "
            f"3 x 3 convolutions, are supported; it has {config['embedding_size']} and {sizes}."
        )
    return {
        "stages": tuple(config["depths"]),
        "bottleneck": bottleneck,
        "width": width,
        "stride_first": config["downsample_in_bottleneck"],
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    refuse_timm_changes(arguments)
    return {}


def to_config(model: ResNet, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its ResNet cannot express the model."""
    plain = (model.cardinality, model.base_width, model.squeeze_excite, model.inner) == (1, 64, False, ())
    if model.deep_stem or model.average_shortcut or model.conv_bias or model.epsilon != 1e-5 or not plain:
        return None
    first = model.width * (4 if model.bottleneck else 1)
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": channels,
        "embedding_size": model.width,
        "hidden_sizes": [first * 2**stage for stage in range(len(model.stages))],
        "depths": list(model.stages),
        "layer_type": "bottleneck" if model.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": model.stride_first,
    }


def to_timm(model: ResNet) -> tuple[str, dict[str, Any]]:
    """Writes the architecture by which timm's create_model makes the model.

    Raises:
      UserError: timm has no ResNet of these sizes.
    """
    for name, fields in VARIANTS.items():
        if ResNet(num_classes=model.num_classes, dtype=model.dtype, **fields) == model.clone(image_size=224):
            return name, {}
    raise UserError(f"timm has no such ResNet; it has {', '.join(VARIANTS)}.")
