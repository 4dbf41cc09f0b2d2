"""The head that somebody put onto a network of Keras: a pooling and dense layers, read off the layers of the model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import models
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.pretrained import layouts, rename
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import walk

_POOLINGS = {"flatten": "flatten", "global_average_pooling2d": "avg", "global_max_pooling2d": "max"}
# What changes nothing outside of training, what may stand at the end of a network beside its activation, and what a
# head of several outputs may end with: the softmax of our logits is theirs, which it is not where each has a sigmoid.
_HARMLESS = ("dropout", "spatial_dropout2d", "gaussian_dropout", "gaussian_noise", "input_layer")
_ENDING = ("add",)
_LAST = ("linear", "softmax")
# Networks of branches end where these are joined, each with an activation; one that twice is the same as once.
_JOIN, _TWICE = "concatenate", ("relu",)


@dataclass(frozen=True)
class Head:
    """What follows a network.

    Attributes:
      parts: the arrays that fill leaves of our head.
      fields: the fields of the model that say which head it is.
      note: what the load report says about it.
    """

    parts: dict[str, tuple[rename.Part, ...]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    note: str = ""


class _Other(Exception):
    """What follows the network is no head that is known here; the message says why."""


def find_head(arrays: Arrays, key_mapping: KeyMapping, plan: rename.Plan, model: str) -> Head:
    """Takes the layers that follow a network without its top for a head, if they are a pooling and dense layers.

    Args:
      arrays: of the file.
      key_mapping: its convention.
      plan: what its arrays fill; the head is among those that no rule names.
      model: the name of the network.
    """
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in plan.unknown))
    try:
        if arrays.metadata.get("model_config"):
            dense, how = _by_layers(arrays, key_mapping, plan, names)
        else:
            dense, how = _by_shapes(arrays, key_mapping, names), ""
        head = _fill(arrays, key_mapping, dense, how, model)
    except _Other as error:
        return Head(note=f"what follows the network is not loaded ({', '.join(names)}): {error}")
    return head


def _by_layers(arrays: Arrays, key_mapping: KeyMapping, plan: rename.Plan, names: list[str]) -> tuple[list[str], str]:
    """Reads the head off the configuration; gives its dense layers in their order, and the pooling."""
    listed = json.loads(arrays.metadata["layers"])
    known = {part.source.rpartition("/")[0] for parts in plan.parts.values() for part in parts}
    last = max((place for place, (_, name) in enumerate(listed) if name in known), default=-1)
    if last < 0:
        raise _Other("the file does not list the layers of its model: save it as a functional model")
    layers = list(zip(listed, walk(arrays.metadata["model_config"]), strict=True))
    expected = _own_ending(key_mapping, layers[: last + 1])
    own = [_activation(kind, layer) for (kind, _), layer in layers[:last] if kind in ("activation", "re_lu")]
    joined = any(kind == _JOIN for (kind, _), _ in layers[:last])
    ending = [*own, *_ENDING]
    dense: list[str] = []
    activations: list[str] = []
    how = ""
    for (kind, name), layer in layers[last + 1 :]:
        activation = _activation(kind, layer)
        if expected and (kind, _window(layer)) == expected[0] and not dense and not how:
            del expected[0]
        elif expected and (kind in _POOLINGS or kind == "dense"):
            raise _Other(f"the network was cut before its last {expected[0][0]}")
        elif kind in _POOLINGS and not dense:
            # A second one sees one place only.
            how = how or _POOLINGS[kind]
        elif kind == "dense":
            dense.append(name)
            activations.append(activation)
        elif kind in _HARMLESS or activation == "linear":
            continue
        elif kind == "activation" and dense and activations[-1] == "linear":
            activations[-1] = activation
        elif joined and kind == _JOIN and not dense and not how:
            continue  # Of its branches; whatever else were joined would make it wider than it is, see `_fill`.
        elif joined and activation in own and activation in _TWICE and not dense and not how:
            continue  # Of each branch, or once more over all.
        elif activation in ending and not dense and not how:
            # The network's own last one; a second one is none of it.
            ending = own if activation in _ENDING else []
        else:
            raise _Other(f"it has a layer of the class {kind}{f' ({activation})' if activation != kind else ''}")
    others = [name for name in names if name not in dense]
    if others or not dense:
        raise _Other(f"{', '.join(others)} come before the network, or beside it")
    columns = arrays.shapes.get(f"{dense[-1]}/kernel", (0,))[-1]
    last_ones = ("sigmoid",) if columns == 1 else _LAST
    if any(activation != "relu" for activation in activations[:-1]) or activations[-1] not in last_ones:
        known_ones = f"relu, at the end {' and '.join(_LAST)}, of one output sigmoid"
        raise _Other(f"the activations are {', '.join(activations)}; known are {known_ones}")
    return dense, how


def _own_ending(key_mapping: KeyMapping, network: Sequence[Any]) -> list[tuple[str, Any]]:
    """Gives the layers without arrays that must follow a network's last convolution, each like those of it before."""
    (last_kind, _), _ = network[-1]
    if not last_kind.endswith("conv2d"):
        return []  # It goes on to its own dense layers.
    windows = {kind: _window(layer) for (kind, _), layer in network}
    return [(kind, windows.get(kind)) for kind in key_mapping.ending]


def _window(layer: Mapping[str, Any]) -> Any:
    """Gives what decides what a pooling computes."""
    return [layer["config"].get(key) for key in ("pool_size", "strides", "padding")]


def _activation(kind: str, layer: Mapping[str, Any]) -> str:
    """Gives what a layer applies: the name of a function, ReLUs with their bounds; of another layer its class."""
    config = layer["config"]
    if kind in ("dense", "activation"):
        return str(config.get("activation") or "linear")
    if kind == "re_lu":
        return f"relu of {[config.get(key) for key in ('max_value', 'negative_slope', 'threshold')]}"
    return kind


def _by_shapes(arrays: Arrays, key_mapping: KeyMapping, names: list[str]) -> list[str]:
    """Reads a head of one layer where only the classes of layers are known, not their order and activations."""
    kinds = [kind for kind, _ in json.loads(arrays.metadata["layers"])]
    if len(names) == 1 and arrays.shapes.get(f"{names[0]}/kernel", ())[-1:] == (1,):
        raise _Other("it has one output, and such a file does not tell whether it is a probability: save it as .keras")
    if len(names) != 1:
        raise _Other("it is more than one layer, and such a file does not tell their activations: save it as .keras")
    if "global_max_pooling2d" in kinds:
        raise _Other("such a file does not tell what is pooled by its maximum: save it as .keras")
    if any(f"{layer}/gamma" in arrays for layer in key_mapping.pooled):
        raise _Other("such a file does not tell the order of pooling and normalisation: save it as .keras")
    return names


def _fill(arrays: Arrays, key_mapping: KeyMapping, dense: list[str], how: str, model: str) -> Head:
    shapes = [arrays.shapes.get(f"{name}/kernel", ()) for name in dense]
    if any(len(shape) != 2 or f"{name}/bias" not in arrays for name, shape in zip(dense, shapes, strict=True)):
        raise _Other("it has layers without a bias, or other than dense ones")
    fields: dict[str, Any] = {}
    if shapes[:-1]:
        fields["head_hidden"] = tuple(shape[1] for shape in shapes[:-1])
    if shapes[-1][1] == 1:
        fields["single_logit"] = True
    # The mean is what the network has anyway, but for one that would normalise after it.
    early = how and any(f"{layer}/gamma" in arrays for layer in key_mapping.pooled)
    if how and (how != "avg" or early):
        fields["head_pool"] = how
    width = _features(f"{model}{',' if ':' in model else ':'}head_pool={how}" if "head_pool" in fields else model)
    if shapes[0][0] != width:
        raise _Other(f"it reads {shapes[0][0]:,} features, not the {width:,} that the network gives")
    leaves = [*(f"head/hidden{number}" for number in range(1, len(dense))), "head"]
    parts: dict[str, tuple[rename.Part, ...]] = {
        f"params/{leaf}/{variable}": (rename.Part(f"{name}/{variable}", layouts.SAME),)
        for leaf, name in zip(leaves, dense, strict=True)
        for variable in ("kernel", "bias")
    }
    return Head(parts, fields, f"the head is {', '.join(dense)}")


def _features(model: str) -> int:
    module = models.build(model, num_classes=0)
    images = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    found, _ = jax.eval_shape(lambda images: module.init_with_output(jax.random.key(0), images), images)
    return int(found.shape[-1])
