"""What the arrays of Keras' layers are called: by class, count and order, where a file does not say it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A layer in a file, or one of its arrays.

    Attributes:
      inside: the model that the layer is part of.
      kind: its class, as Keras makes names of it: "batch_normalization".
      layer: its name.
      variable: which of its arrays it is, such as "kernel"; empty for a layer without any.
      place: where in the file the array lies.
      shape: of the array.
    """

    inside: str
    kind: str
    layer: str
    variable: str = ""
    place: str = ""
    shape: Shape = ()


_NORM = ("gamma", "beta")
_BY_KIND: dict[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "layer_normalization": _NORM,
    "group_normalization": _NORM,
    "normalization": ("mean", "variance", "count"),
    "layer_scale": ("variable",),
}
_BATCH_NORM = {
    4: (*_NORM, "moving_mean", "moving_variance"),
    # Without its scale; without its shift it would be as many, but no network of Keras has that.
    3: ("beta", "moving_mean", "moving_variance"),
    2: ("moving_mean", "moving_variance"),
}


def variables(kind: str, shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Names the arrays of a layer, which Keras 3 only numbers; those of a class that is not known keep their number."""
    names = _BATCH_NORM.get(len(shapes), ()) if kind == "batch_normalization" else _BY_KIND.get(kind, ())
    if len(shapes) <= len(names):
        return names[: len(shapes)]
    return tuple(str(index) for index in range(len(shapes)))


def plain_name(name: str) -> str:
    """Takes the number off a name that Keras made: "conv2d_94" is "conv2d"; the class, if the name is of Keras."""
    return re.sub(r"_\d+$", "", name)


def class_name(name: str) -> str:
    """Writes the name of a class as Keras makes names of layers from it.

    >>> class_name("BatchNormalization"), class_name("Conv2D"), class_name("GlobalAveragePooling2D")
    ('batch_normalization', 'conv2d', 'global_average_pooling2d')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def config_layers(text: str) -> list[tuple[str, str]]:
    """Lists class and name of each layer in the configuration of a model, those of models within it in their place."""
    return [(class_name(str(layer.get("class_name", ""))), layer_name(layer)) for layer in walk(text)]


def layer_name(layer: Mapping[str, Any]) -> str:
    """Gives the name of a layer in a configuration."""
    return str(layer["config"].get("name") or layer.get("name") or "")


def walk(text: str) -> Iterator[dict[str, Any]]:
    """Gives the layers in the configuration of a model, in their order; models are replaced by what they consist of."""
    try:
        model = json.loads(text or "{}")
    except ValueError:
        return
    yield from _walk(model)


def _walk(model: Any) -> Iterator[dict[str, Any]]:
    config = model.get("config") if isinstance(model, dict) else None
    # The first Sequential models list their layers at once.
    layers = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if isinstance(layers, list):
        for layer in layers:
            yield from _walk(layer)
    elif isinstance(model, dict) and "class_name" in model:
        yield {**model, "config": config if isinstance(config, dict) else {}}


def arrange(found: Iterable[Found]) -> dict[str, Found]:
    """Names the arrays of a file "layer/variable", with layers that Keras numbered counted from the first on.

    Of two that would have the same name, the later one gets that of its model before it.
    """
    arrays = [each for each in found if each.variable]
    numbers: dict[tuple[str, str], set[int]] = {}
    for each in arrays:
        if _made_by_keras(each):
            numbers.setdefault((each.inside, each.kind), set()).add(_number(each))
    placed: dict[str, Found] = {}
    for each in arrays:
        layer = each.layer
        if _made_by_keras(each):
            place = sorted(numbers[each.inside, each.kind]).index(_number(each))
            layer = f"{each.kind}_{place}" if place else each.kind
        name = f"{layer}/{each.variable}"
        placed[f"{each.inside.strip('/')}/{name}" if name in placed else name] = each
    return placed


_KINDS = (*_BY_KIND, "batch_normalization")


def _made_by_keras(each: Found) -> bool:
    return each.kind in _KINDS and re.fullmatch(rf"{each.kind}(_\d+)?", each.layer) is not None


def _number(each: Found) -> int:
    return int(each.layer.removeprefix(each.kind).removeprefix("_") or 0)
