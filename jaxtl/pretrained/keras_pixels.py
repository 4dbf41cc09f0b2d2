"""How a Keras model normalises pixels itself, before its first convolution, as its configuration and arrays say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.preprocessing import IMAGENET, Triple
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import class_name, layer_name, walk


@dataclass(frozen=True)
class Inside:
    """What happens to pixels within a model.

    Attributes:
      statistics: mean and standard deviation per channel, for images in [0, 1]: red, green, blue.
      turned: whether the channels are brought into the order blue, green, red.
      origin: what says so, for the load report.
    """

    statistics: tuple[Triple, Triple]
    turned: bool
    origin: str


# What changes no pixel outside of training, or only how many there are.
_HARMLESS = ("input_layer", "resizing", "center_crop", "get_item", "zero_padding2d", "gaussian_noise", "dropout")


def pixels_inside(arrays: Arrays) -> Inside | None:
    """Reads what a model does to pixels in 0 to 255; None if it does nothing, or what is not known here.

    Its layers Rescaling and Normalization count, and sums and products with constants, as the functions
    `preprocess_input` of Keras leave them.
    """
    if not arrays.metadata.get("model_config"):
        return _by_arrays(arrays)
    weighted = {name.partition("/")[0] for name in arrays}
    scale, shift, turned, touched = np.ones(3), np.zeros(3), False, False
    for layer in walk(arrays.metadata["model_config"]):
        kind, name = class_name(str(layer["class_name"])), layer_name(layer)
        if kind.startswith("random_") or kind in _HARMLESS:
            continue
        if kind == "stack":
            scale, shift, turned, touched = scale[::-1], shift[::-1], True, True
            continue
        try:
            step = _normalization(layer, arrays) if kind == "normalization" else _step(kind, layer)
        except (KeyError, ValueError, TypeError):
            # Such as one number for each of four channels.
            return None
        if step is None:
            if name in weighted or kind.endswith("conv2d"):
                break
            return None
        scale, shift, touched = scale * step[0], shift * step[0] + step[1], True
    if not touched or not (np.all(scale > 0) and scale.shape == (3,)):
        return None
    if turned:
        scale, shift = scale[::-1], shift[::-1]
    return Inside((_triple(-shift / scale / 255), _triple(1 / (scale * 255))), turned, "the layers of the Keras model")


def _by_arrays(arrays: Arrays) -> Inside | None:
    """Reads the Normalization of an EfficientNet, which follows a division by 255, where there is no configuration."""
    if "normalization/mean" not in arrays:
        return None
    mean, variance = (np.broadcast_to(arrays[f"normalization/{name}"].ravel(), 3) for name in ("mean", "variance"))
    # With the weights for ImageNet the "variance" is the standard deviation, and a layer that divides by its root once
    # more leaves no trace in such a file.
    published = np.allclose(mean, IMAGENET[0], atol=1e-3) and np.allclose(variance, IMAGENET[1], atol=1e-3)
    return Inside((_triple(mean), _triple(variance if published else np.sqrt(variance))), False, "its normalization")


def _normalization(layer: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Any] | None:
    config = layer["config"]
    mean, variance = config.get("mean"), config.get("variance")
    if mean is None:
        layer_names = (layer_name(layer), "normalization")
        held = next((name for name in layer_names if f"{name}/mean" in arrays), "")
        found = [arrays.get(f"{held}/{name}") for name in ("mean", "variance")]
        if found[0] is None or found[1] is None:
            return None
        mean, variance = found[0], found[1]
    deviation = np.maximum(np.sqrt(_values(variance)), 1e-7)
    return 1 / deviation, -_values(mean) / deviation


def _step(kind: str, layer: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Gives factor and summand of a layer; None if it is another."""
    if kind == "rescaling":
        config = layer["config"]
        return _values(config["scale"]), _values(config.get("offset", 0))
    constants = list(_constants(layer))
    if kind not in ("true_divide", "multiply", "subtract", "add") or len(constants) != 1:
        return None
    value = constants[0]
    steps = {
        "true_divide": (1 / value, 0.0),
        "multiply": (value, 0.0),
        "subtract": (1.0, -value),
        "add": (1.0, value),
    }
    return steps[kind]


def _constants(layer: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Gives the constants behind the first argument of an operation."""
    for node in layer.get("inbound_nodes") or ():
        for argument in (node.get("args") or ())[1:] if isinstance(node, dict) else ():
            if isinstance(argument, int | float):
                yield _values(argument)
            elif isinstance(argument, dict) and argument.get("class_name") == "__tensor__":
                yield _values(argument["config"]["value"])


def _values(value: Any) -> np.ndarray:
    """Gives one number, or one a channel."""
    # Earlier files hold arrays as dictionaries.
    value = value.get("config", value).get("value") if isinstance(value, dict) else value
    return np.broadcast_to(np.asarray(value, np.float64).ravel(), (3,))


def _triple(values: np.ndarray) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))
