"""ConvNeXt, https://arxiv.org/abs/2201.03545: its variants and what others call its arrays."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import UserError
from jaxtl.models.builders import find_builder
from jaxtl.models.convnext_network import ConvNeXt
from jaxtl.models.key_mapping import KeyMapping, Rows, refuse_timm_changes
from jaxtl.preprocessing import IMAGENET, PixelDefaults, Processor

VARIANTS: dict[str, dict[str, Any]] = {
    "convnext_atto": {"blocks": (2, 2, 6, 2), "width": 40},
    "convnext_femto": {"blocks": (2, 2, 6, 2), "width": 48},
    "convnext_pico": {"blocks": (2, 2, 6, 2), "width": 64},
    "convnext_nano": {"blocks": (2, 2, 8, 2), "width": 80},
    "convnext_t": {"blocks": (3, 3, 9, 3)},
    "convnext_s": {"blocks": (3, 3, 27, 3)},
    "convnext_b": {"blocks": (3, 3, 27, 3), "width": 128},
    "convnext_l": {"blocks": (3, 3, 27, 3), "width": 192},
    "convnext_xl": {"blocks": (3, 3, 27, 3), "width": 256},
}

_LONG = {"t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge"}
PUBLISHED = {
    **{f"convnext_{short}": f"hf:timm/convnext_{long}.fb_in22k_ft_in1k" for short, long in _LONG.items()},
    "convnext_atto": "hf:timm/convnext_atto.d2_in1k",
    "convnext_femto": "hf:timm/convnext_femto.d1_in1k",
    "convnext_pico": "hf:timm/convnext_pico.d1_in1k",
    "convnext_nano": "hf:timm/convnext_nano.in12k_ft_in1k",
}

BUILDERS = {"torchvision": {f"convnext_{short}": f"convnext_{long}" for short, long in _LONG.items() if short != "xl"}}

MODEL = ConvNeXt
IMAGE_SIZE = 224

# timm's others stem, normalise or end otherwise ("ols", "rms", "hnf", "mlp", "xxlarge", V2).
ARCHITECTURES = (r"convnext_?(atto|femto|pico|nano|tiny|small|base|large|xlarge)",)

PROCESSOR = Processor("ConvNext", crop_share=224 / 256)

_TIMM_BLOCK, _HF_STAGE = "stages.{s}.blocks.{i}.", "encoder.stages.{s}."
_TIMM = (
    ("stem.0", "stem_conv", "conv"),
    ("stem.1", "stem_norm", "norm"),
    ("stages.{s}.downsample.0", "stage{s+1}.0/downsample_norm", "norm"),
    ("stages.{s}.downsample.1", "stage{s+1}.0/downsample_conv", "conv"),
    (_TIMM_BLOCK + "conv_dw", "stage{s+1}.{i}/conv", "conv"),
    (_TIMM_BLOCK + "norm", "stage{s+1}.{i}/norm", "norm"),
    (_TIMM_BLOCK + "mlp.fc{k}", "stage{s+1}.{i}/mlp/fc{k}", "either"),
    (_TIMM_BLOCK + "gamma", "stage{s+1}.{i}/layer_scale", "array"),
    ("head.norm", "norm", "norm"),
    ("head.fc", "head", "dense"),
)
_HUGGINGFACE = (
    ("embeddings.patch_embeddings", "stem_conv", "conv"),
    ("embeddings.layernorm", "stem_norm", "norm"),
    (_HF_STAGE + "downsampling_layer.0", "stage{s+1}.0/downsample_norm", "norm"),
    (_HF_STAGE + "downsampling_layer.1", "stage{s+1}.0/downsample_conv", "conv"),
    (_HF_STAGE + "layers.{i}.dwconv", "stage{s+1}.{i}/conv", "conv"),
    (_HF_STAGE + "layers.{i}.layernorm", "stage{s+1}.{i}/norm", "norm"),
    (_HF_STAGE + "layers.{i}.pwconv{k}", "stage{s+1}.{i}/mlp/fc{k}", "dense"),
    (_HF_STAGE + "layers.{i}.layer_scale_parameter", "stage{s+1}.{i}/layer_scale", "array"),
    ("layernorm", "norm", "norm"),
    ("classifier", "head", "dense"),
)


def _torchvision() -> Rows:
    """Returns torchvision's rows, where a list holds stem, stages and what lies between them by turns."""
    rows: list[tuple[str, str, str]] = [("features.0.0", "stem_conv", "conv"), ("features.0.1", "stem_norm", "norm")]
    for stage in range(1, 5):
        block, path = f"features.{2 * stage - 1}.{{i}}.", f"stage{stage}.{{i}}/"
        rows += [
            (block + "block.0", path + "conv", "conv"),
            (block + "block.2", path + "norm", "norm"),
            (block + "block.3", path + "mlp/fc1", "dense"),
            (block + "block.5", path + "mlp/fc2", "dense"),
            (block + "layer_scale", path + "layer_scale", "channels"),
        ]
        if stage > 1:
            rows.append((f"features.{2 * stage - 2}.0", f"stage{stage}.0/downsample_norm", "norm"))
            rows.append((f"features.{2 * stage - 2}.1", f"stage{stage}.0/downsample_conv", "conv"))
    return (*rows, ("classifier.0", "norm", "norm"), ("classifier.2", "head", "dense"))


_KERAS_BLOCK = "stage_{s}_block_{i}_"
_KERAS = (
    ("stem_conv", "stem_conv", "conv"),
    ("stem_layernorm", "stem_norm", "norm"),
    ("downsampling_layernorm_{s}", "stage{s+2}.0/downsample_norm", "norm"),
    ("downsampling_conv_{s}", "stage{s+2}.0/downsample_conv", "conv"),
    (_KERAS_BLOCK + "depthwise_conv", "stage{s+1}.{i}/conv", "conv"),
    (_KERAS_BLOCK + "layernorm", "stage{s+1}.{i}/norm", "norm"),
    (_KERAS_BLOCK + "pointwise_conv_{k}", "stage{s+1}.{i}/mlp/fc{k}", "dense"),
    (_KERAS_BLOCK + "layer_scale", "stage{s+1}.{i}/layer_scale", "variable"),
    ("head_layernorm", "norm", "norm"),
    # Without its head it has no name, and is computed before the pooling, if one follows.
    ("layer_normalization", "norm", "norm"),
    ("head_dense", "head", "dense"),
)

_PIXELS = PixelDefaults(IMAGENET, "bilinear", 224 / 256)

KEY_MAPPINGS = (
    KeyMapping("torchvision", "torch", _torchvision(), pixels=_PIXELS),
    KeyMapping("timm", "torch", _TIMM, pixels=PixelDefaults(IMAGENET, "bicubic", 0.875)),
    KeyMapping(
        "huggingface",
        "torch",
        _HUGGINGFACE,
        prefixes=("convnext.", ""),
        fields={"head_epsilon": 1e-12},
        pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
    ),
    KeyMapping(
        "keras",
        "keras",
        _KERAS,
        prefixes=tuple(f"convnext_{size}_" for size in ("tiny", "small", "base", "large", "xlarge")),
        pooled=("layer_normalization",),
        pixels=PixelDefaults(IMAGENET, "bicubic", 224 / 256),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    found = (re.fullmatch(r"params/stage(\d+)\.\d+/conv/kernel", path) for path in shapes)
    counts = Counter(int(match[1]) for match in found if match)
    return {
        "blocks": tuple(counts[stage] for stage in sorted(counts)),
        "width": shapes["params/stem_conv/kernel"][-1],
    }


def from_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the fields out of a config.json of transformers; None if it is of another model type.

    Raises:
      UserError: it is of a ConvNeXt with other proportions than the published ones.
    """
    if config.get("model_type") != "convnext":
        return None
    sizes = list(config["hidden_sizes"])
    if sizes != [sizes[0] * 2**stage for stage in range(len(sizes))] or config.get("patch_size", 4) != 4:
        raise UserError(
            "config.json: only ConvNeXts whose stages double in width, over patches of 4 pixels, are supported; it has "
            f"{sizes} and {config.get('patch_size')}."
        )
    gelus = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
    if config["hidden_act"] not in gelus:
        raise UserError(f"config.json: hidden_act {config['hidden_act']!r} is none of {', '.join(gelus)}.")
    return {
        "blocks": tuple(config["depths"]),
        "width": sizes[0],
        "gelu": gelus[config["hidden_act"]],
        "head_epsilon": config["layer_norm_eps"],
    }


def to_config(model: ConvNeXt, *, channels: int) -> dict[str, Any] | None:
    """Writes a config.json for transformers; None if its ConvNeXt cannot express the model."""
    if model.epsilon != 1e-6:
        return None
    return {
        "model_type": "convnext",
        "architectures": ["ConvNextForImageClassification"],
        "num_channels": channels,
        "image_size": model.image_size,
        "hidden_sizes": [model.width * 2**stage for stage in range(len(model.blocks))],
        "depths": list(model.blocks),
        "hidden_act": {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[model.gelu],
        "layer_norm_eps": model.head_epsilon,
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    # A convolution of one pixel is a dense layer.
    refuse_timm_changes({key: value for key, value in arguments.items() if key != "conv_mlp"})
    return {}


def to_timm(model: ConvNeXt) -> tuple[str, dict[str, Any]]:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no such ConvNeXt.
    """
    shorts = {name: name.removeprefix("convnext_") for name in VARIANTS}
    variants = {f"convnext_{_LONG.get(short, short)}": VARIANTS[name] for name, short in shorts.items()}
    name = find_builder("timm", model, variants)
    # Its smaller ones would have the MLP as convolutions.
    return name, {"conv_mlp": False}
