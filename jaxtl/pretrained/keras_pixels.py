"""How a Keras model normalises pixels itself, before its first convolution, as its configuration and arrays say."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import IMAGENET, Triple
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import layer_name, walk


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


@dataclass(frozen=True)
class Unknown:
    """Something is done to pixels within a model, or may be, and it cannot be told what.

    Attributes:
      reason: where in the model, and what to do, as a clause of an error.
    """

    reason: str


# What changes no pixel outside of training, or only how many there are.
_HARMLESS = (
    *("input_layer", "resizing", "center_crop", "zero_padding2d", "gaussian_noise", "gaussian_dropout"),
    *("dropout", "spatial_dropout2d", "cut_mix", "mix_up", "rand_augment", "aug_mix"),
)
_BROKEN = (KeyError, ValueError, TypeError, IndexError, AttributeError)


def pixels_inside(arrays: Arrays, key_mapping: KeyMapping) -> Inside | Unknown | None:
    """Reads what a model does to pixels in 0 to 255 before its first layer with weights; None if that is nothing.

    Its layers Rescaling and Normalization count, sums and products with constants, and the order of the channels, as
    the functions `preprocess_input` of Keras leave them. Whatever else stands there is unknown.
    """
    if not arrays.metadata.get("model_config"):
        return _by_arrays(arrays, key_mapping)
    listed = json.loads(arrays.metadata["layers"])
    weighted = {name.rpartition("/")[0] for name in arrays}
    if not any(name in weighted for _, name in listed):
        return Unknown("the file does not list the layers of its model: save it as a functional model")
    scale, shift, turned, touched = np.ones(3), np.zeros(3), False, ""
    picked: dict[str, int] = {}
    for (kind, name), layer in zip(listed, walk(arrays.metadata["model_config"]), strict=True):
        if kind.startswith("random_") or kind in _HARMLESS:
            continue
        try:
            if kind in _ORDERS:
                if _ORDERS[kind](layer, picked):
                    scale, shift, turned, touched = scale[::-1], shift[::-1], not turned, name
                continue
            step = _normalization(layer, name, arrays) if kind == "normalization" else _step(kind, layer)
        except _BROKEN:
            # Such as one number for each of four channels.
            return _unknown(kind, name)
        if step is None and (name in weighted or kind.endswith("conv2d")):
            break
        if step is None or picked:
            return _unknown(kind, name)
        scale, shift, touched = scale * step[0], shift * step[0] + step[1], name
    if picked:
        return _unknown("get_item", next(iter(picked)))
    if not touched:
        return None
    if not (np.all(scale > 0) and np.all(np.isfinite([scale, shift]))):
        return _unknown("", touched)
    if turned:
        scale, shift = scale[::-1], shift[::-1]
    return Inside((_triple(-shift / scale / 255), _triple(1 / (scale * 255))), turned, "the layers of the Keras model")


def _unknown(kind: str, name: str) -> Unknown:
    of_class = f" of the class {kind}" if kind else ""
    return Unknown(
        f"what its layer {name}{of_class} does to pixels before the network is not known here: save the model without "
        "it, and say what it does by mean and std"
    )


def _by_arrays(arrays: Arrays, key_mapping: KeyMapping) -> Inside | Unknown | None:
    """Reads the Normalization of an EfficientNet, which follows a division by 255, where there is no configuration."""
    layers = [name.removesuffix("/mean") for name in arrays if name.endswith("/mean")]
    found = [layer for layer in layers if f"{layer}/variance" in arrays]
    if not found:
        return None
    save = "a file without the configuration of its model does not tell what comes before: save it as .keras"
    other = [layer for layer in found if not any(re.fullmatch(each, f"{layer}/mean") for each in key_mapping.unused)]
    if other:
        return Unknown(f"its layer {other[0]} normalises pixels, and {save}")
    mean, variance = (np.broadcast_to(arrays[f"{found[0]}/{name}"].ravel(), 3) for name in ("mean", "variance"))
    # Of pixels in [0, 1] the statistics lie there, too; a model that starts anew may have others, but near by. Those of
    # pixels in 0 to 255 do not.
    if not (np.all(np.abs(mean) < 2) and np.all(variance > 0) and np.all(variance < 10)):
        return Unknown(f"the statistics of its layer {found[0]} are not those of pixels in [0, 1], and {save}")
    # With the weights for ImageNet the "variance" is the standard deviation, and a layer that divides by its root once
    # more leaves no trace in such a file.
    published = np.allclose(mean, IMAGENET[0], atol=1e-3) and np.allclose(variance, IMAGENET[1], atol=1e-3)
    return Inside((_triple(mean), _triple(variance if published else np.sqrt(variance))), False, "its normalization")


def _indexed(layer: Mapping[str, Any], picked: dict[str, int]) -> bool:
    """Whether x[..., ::-1] turns the channels round; of x[..., 2] it notes which channel that is.

    Raises:
      ValueError: it does something else.
    """
    index = _arguments(layer)[1]
    index = index if isinstance(index, list) else [index]
    *others, last = index
    of_channels = len(index) == 4 or any(_class(each) == "__ellipsis__" for each in others)
    if not all(map(_is_full, others)) or len(index) > 4:
        raise ValueError(f"other places or axes: {index}")
    if _is_full(last):
        return False
    if of_channels and isinstance(last, int):
        picked[layer_name(layer)] = range(3)[last]
        return False
    if not of_channels or _class(last) != "__slice__" or last["config"] != {"start": None, "stop": None, "step": -1}:
        raise ValueError(f"other channels: {last}")
    return True


def _is_full(index: Any) -> bool:
    """Whether an index is `...` or `:`."""
    bounds = index["config"] if _class(index) == "__slice__" else {}
    is_slice = bool(bounds) and not bounds["start"] and bounds["stop"] is None and bounds["step"] in (None, 1)
    return is_slice or _class(index) == "__ellipsis__"


def _class(value: Any) -> str:
    return str(value.get("class_name")) if isinstance(value, dict) else ""


def _stacked(layer: Mapping[str, Any], picked: dict[str, int]) -> bool:
    """Whether channels that were taken apart are put together the other way round; ValueError for other orders."""
    order = [picked.pop(each["config"]["keras_history"][0]) for each in _arguments(layer)[0]]
    if layer["config"]["axis"] not in (-1, 3) or picked or order not in ([0, 1, 2], [2, 1, 0]):
        raise ValueError(f"another order: {order}")
    return order == [2, 1, 0]


def _flipped(layer: Mapping[str, Any], picked: dict[str, int]) -> bool:
    """Whether channels are turned round; ValueError for rows and columns."""
    if layer["config"]["axis"] not in (-1, 3, [-1], [3]) or picked:
        raise ValueError("rows or columns")
    return True


_ORDERS: dict[str, Callable[[Mapping[str, Any], dict[str, int]], bool]] = {
    "get_item": _indexed,
    "stack": _stacked,
    "flip": _flipped,
}
"""What brings channels into another order; images are [B, H, W, 3]."""


def _arguments(layer: Mapping[str, Any]) -> list[Any]:
    """Gives the arguments of an operation that is called once."""
    (node,) = layer["inbound_nodes"]
    return list(node["args"])


def _normalization(layer: Mapping[str, Any], name: str, arrays: Arrays) -> tuple[Any, Any]:
    config = layer["config"]
    mean, variance = config.get("mean"), config.get("variance")
    if config.get("invert"):
        raise ValueError("it takes a normalisation back")
    if mean is None:
        mean, variance = arrays[f"{name}/mean"], arrays[f"{name}/variance"]
    deviation = np.maximum(np.sqrt(_values(variance)), 1e-7)
    return 1 / deviation, -_values(mean) / deviation


def _step(kind: str, layer: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Gives factor and summand of a layer; None if it is another."""
    if kind == "rescaling":
        config = layer["config"]
        return _values(config["scale"]), _values(config.get("offset", 0))
    if kind not in ("true_divide", "divide", "multiply", "subtract", "add"):
        return None
    # Of a sum or product the constant may come first.
    arguments = _arguments(layer)
    constants = list(_constants(arguments if kind in ("multiply", "add") else arguments[1:]))
    if len(constants) != 1:
        return None
    value = constants[0]
    steps = {"multiply": (value, 0.0), "subtract": (1.0, -value), "add": (1.0, value)}
    return steps[kind] if kind in steps else (1 / value, 0.0)


def _constants(arguments: Iterable[Any]) -> Iterator[np.ndarray]:
    for argument in arguments:
        if isinstance(argument, int | float):
            yield _values(argument)
        elif _class(argument) in ("__tensor__", "__numpy__"):
            yield _values(argument["config"]["value"])


def _values(value: Any) -> np.ndarray:
    """Gives one number, or one a channel."""
    # Earlier files hold arrays as dictionaries.
    value = value.get("config", value).get("value") if isinstance(value, dict) else value
    return np.broadcast_to(np.asarray(value, np.float64).ravel(), (3,))


def _triple(values: np.ndarray) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))
