"""Fills a model with opened weights, leaf by leaf, and accounts for every array on both sides."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import UserError
from jaxtl.models import spec
from jaxtl.models.base import Fit, GroupedModel
from jaxtl.models.head import HEAD_FIELDS
from jaxtl.pretrained import layouts, rename
from jaxtl.pretrained.open import Weights
from jaxtl.pretrained.report import LoadReport
from jaxtl.pretrained.resolve import resolution_notes
from jaxtl.trees import flatten, nest

Variables = dict[str, Any]


def abstract_variables(model: GroupedModel, image_size: int, channels: int = 3) -> dict[str, jax.ShapeDtypeStruct]:
    """Gives shape and type of every leaf, by path, without computing anything."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    # The key within: outside, it would take a device for this process.
    tree = jax.eval_shape(lambda images: model.init(jax.random.key(0), images), images)
    return flatten(tree)


def initialise(model: GroupedModel, rng: jax.Array, image_size: int, *, channels: int = 3) -> Variables:
    """Initialises a model at random, under jit: {"params": ..., "batch_stats": ... where it has any}."""
    return nest(_initialise_leaves(model, rng, image_size, channels, None))


def _initialise_leaves(
    model: GroupedModel, rng: jax.Array, image_size: int, channels: int, paths: set[str] | None
) -> dict[str, Any]:
    return _initialiser(model, image_size, channels, None if paths is None else frozenset(paths))(rng)


@functools.lru_cache(maxsize=4)  # Runs of one process, as a sweep's, often begin with the same model.
def _initialiser(
    model: GroupedModel, image_size: int, channels: int, paths: frozenset[str] | None
) -> Callable[[jax.Array], dict[str, Any]]:
    def init(rng: jax.Array) -> dict[str, jax.Array]:
        leaves = flatten(model.init(rng, jnp.zeros((1, image_size, image_size, channels))))
        # What is not returned is not computed either: the compiler drops it.
        return {path: leaf for path, leaf in leaves.items() if paths is None or path in paths}

    return jax.jit(init)


def load_pretrained(
    weights: Weights,
    model: GroupedModel,
    *,
    image_size: int,
    head: str = "auto",
    classes: tuple[str, ...] | None = None,
    rng: jax.Array,
    channels: int = 3,
) -> tuple[Variables, LoadReport]:
    """Fills a model with weights.

    Args:
      weights: what `open_weights` gave.
      model: a module of `jaxtl.models`, built for `image_size` and the number of classes wanted.
      image_size: the side of the square images in pixels.
      head: "keep" the head of the weights, make a "new" one of zeros, or "auto": keep it if the number of classes
        agrees and the class names do not contradict.
      classes: the names of the classes wanted, for that comparison.
      rng: for leaves that the weights do not hold.
      channels: of the images.

    Returns:
      the variables {"params": ..., "batch_stats": ...} as `model.init` gives them, and the load report.

    Raises:
      UserError: lists every array that found no place, every leaf that stayed empty, and every shape that differs.
    """
    leaves, fits, load_report = _examine(weights, model, image_size, head, classes, channels)
    filled: dict[str, Any] = {}
    if load_report.initialised:
        filled |= _initialise_leaves(model, rng, image_size, channels, set(load_report.initialised))

    def load(path: str) -> jax.Array:
        return _put(fits[path](rename.fill(weights.plan.parts[path], weights.arrays)))

    # Reading, turning round and hashing are bound by memory and release the interpreter, so threads share them.
    with ThreadPoolExecutor(_READERS) as pool:
        digests = pool.submit(lambda: weights.sha256)
        filled |= zip(fits, pool.map(load, fits), strict=True)
        load_report.sha256 = digests.result()
    return nest({path: filled[path] for path in leaves}), load_report


def examine(
    weights: Weights,
    model: GroupedModel,
    *,
    image_size: int,
    head: str = "auto",
    classes: tuple[str, ...] | None = None,
    channels: int = 3,
) -> LoadReport:
    """Gives the load report that `load_pretrained` would give, by shapes alone: no array is read.

    Raises:
      UserError: as `load_pretrained`.
    """
    _, _, load_report = _examine(weights, model, image_size, head, classes, channels)
    load_report.sha256 = weights.sha256
    return load_report


_READERS = 4


def _examine(
    weights: Weights, model: GroupedModel, image_size: int, head: str, classes: tuple[str, ...] | None, channels: int
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, Fit], LoadReport]:
    """Finds for each leaf what fills it; gives the leaves, what fits each array to its leaf, and the account."""
    leaves = abstract_variables(model, image_size, channels)
    keep_head, reason = _decide_head(weights, model, head, classes)
    left_out = model.left_out()
    sources = {
        path: parts
        for path, parts in weights.plan.parts.items()
        if (keep_head or not _in_head(path, model)) and not _in_groups(path, left_out.values())
    }
    found = {path: _fit(weights, path, leaves[path].shape, model) for path in sources if path in leaves}
    fits = {path: fit for path, fit in found.items() if fit is not None}
    fresh = [path for path in leaves if path not in sources]
    problems = [f"{name}: no rule names this array" for name in weights.plan.unknown]
    problems += [
        f"{', '.join(part.source for part in parts)}: the model has no {path}"
        for path, parts in sources.items()
        if path not in leaves
    ]
    problems += [
        f"{path}: the weights have {weights.shapes[path]}, the model {leaves[path].shape}"
        for path in found
        if path not in fits
    ]
    problems += [f"{path}: the weights have nothing for it" for path in fresh if keep_head or not _in_head(path, model)]
    if problems:
        raise UserError(
            _other_variant(weights, model) or _mismatch(weights, problems), arguments=["model"] * bool(weights.model)
        )

    load_report = LoadReport.begin(weights, head=reason)
    shapes = {path: list(leaf.shape) for path, leaf in leaves.items()}
    load_report.contradicted = _contradictions(weights, model)
    load_report.notes = [*weights.notes, *resolution_notes(weights, weights.asked), *_left_out_notes(weights, left_out)]
    load_report.ones = {path: shapes[path] for path in fits if sources[path][0].transform is layouts.ONES}
    load_report.loaded = {
        path: {"from": [part.source for part in sources[path]], "shape": shapes[path]}
        for path in fits
        if path not in load_report.ones
    }
    load_report.resized = {
        path: f"{list(weights.shapes[path])} -> {shapes[path]}"
        for path in fits
        if weights.shapes[path] != leaves[path].shape
    }
    unplaced = [part.source for path, parts in weights.plan.parts.items() if path not in sources for part in parts]
    load_report.dropped = {name: list(weights.arrays.shapes[name]) for name in (*weights.plan.unused, *unplaced)}
    load_report.initialised = {path: shapes[path] for path in fresh}
    return leaves, fits, load_report


def _put(array: np.ndarray) -> jax.Array:
    # A copy: a buffer shared with numpy must not be donated to a training step.
    return jnp.array(array.astype(np.float32, copy=False), copy=True)


def _fit(weights: Weights, path: str, shape: tuple[int, ...], model: GroupedModel) -> Fit | None:
    """Gives what brings an array into the shape of its leaf; None if nothing may."""
    before = weights.shapes[path]
    if before == shape:
        return lambda array: array
    return model.fit(path, before, shape, positions=weights.key_mapping.positions)


def _contradictions(weights: Weights, model: GroupedModel) -> dict[str, str]:
    """Compares the model with the fields that shapes do not show."""
    return {
        key: f"the weights imply {value}, the model has {getattr(model, key)}"
        for key, value in weights.unseen.items()
        if hasattr(model, key) and getattr(model, key) != value and key not in HEAD_FIELDS  # Told as the head.
    }


def _in_head(path: str, model: GroupedModel) -> bool:
    """Tells whether a leaf is of the head, or gives auxiliary logits: such layers are kept or new together."""
    patterns = [dict(model.groups())["head"], *filter(None, [model.auxiliary_classifiers])]
    return _in_groups(path, patterns)


def _in_groups(path: str, patterns: Iterable[str]) -> bool:
    return any(re.match(rf"(?:{pattern})(?:/|$)", path.partition("/")[2]) for pattern in patterns)


def _left_out_notes(weights: Weights, left_out: Mapping[str, str]) -> list[str]:
    """Says which groups of the weights the model does without, as its fields say."""
    held = [
        name for name, pattern in left_out.items() if any(_in_groups(path, [pattern]) for path in weights.plan.parts)
    ]
    return [f"{', '.join(held)}: left out of the model, as asked"] if held else []


def _decide_head(weights: Weights, model: GroupedModel, head: str, classes: tuple[str, ...] | None) -> tuple[bool, str]:
    """Decides whether the head of the weights is kept, and says why."""
    wanted: int = model.num_classes
    if head not in ("auto", "keep", "new"):
        raise UserError(f"head {head!r} is none of auto, keep, new.")
    if not wanted:
        return False, "dropped: the model is built without one"
    if head == "new":
        return False, "new: as asked"
    if not weights.num_classes:
        obstacle = "the weights have none"
    elif weights.num_classes != wanted:
        obstacle = f"the weights have {weights.num_classes} classes, {wanted} are wanted"
    elif weights.head_fields != {key: getattr(model, key) for key in HEAD_FIELDS}:
        obstacle = "the weights have a head of another form"
    elif weights.classes and classes and (conflict := class_conflict(weights.classes, classes)):
        obstacle = f"the class names differ ({conflict})"
    else:
        _check_flattened(weights, model)
        return True, f"kept: {wanted} classes"
    if head == "keep":
        raise UserError(f"{weights.location}: its head cannot be kept, {obstacle}; ask for head=new or auto.")
    return False, f"new: {obstacle}"


def _check_flattened(weights: Weights, model: GroupedModel) -> None:
    """Sees that a kept head which flattens maps gets maps of the size it was trained on."""
    size = weights.pixels.size if weights.pixels else model.image_size
    if model.head_pool == "flatten" and model.image_size != size:
        raise UserError(
            f"{weights.location}: its head reads flattened maps of images of {size} pixels, and the model sees "
            f"{model.image_size}: give image_size {size}, or ask for head=new.",
            arguments=["image_size"],
        )


def class_conflict(source_classes: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Compares class names by their first synonym: most must agree, and none may stand at another position.

    Returns:
      The first that does not, in words; "" where they agree.
    """
    place = {_plain(name): index for index, name in enumerate(source_classes)}
    found = [place.get(_plain(name)) for name in classes]
    if sum(other is not None for other in found) * 2 < len(classes):
        unknown = classes[found.index(None)]
        more = ", ..." if len(source_classes) > 3 else ""
        return f"{unknown!r} is none of {', '.join(map(repr, source_classes[:3]))}{more}"
    for index, other in enumerate(found):
        if other is not None and other != index:
            return f"{classes[index]!r} is number {index}, and {other} in the weights"
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.partition(",")[0]).strip().casefold()


def _other_variant(weights: Weights, model: GroupedModel) -> str:
    """Says in a line which model the weights are of, if that is another variant and they are nothing but that."""
    if weights.family.MODEL is not type(model):
        return ""
    names = {field.name for field in dataclasses.fields(model)} - {"num_classes", "parent", "name"}
    fields = {name: getattr(model, name) for name in names}
    theirs, ours = (name.partition(":")[0] for name in (weights.model, spec(type(model), fields)))
    if not theirs or theirs == ours or weights.plan.unknown:
        return ""
    published = getattr(weights.family, "PUBLISHED", {}).get(ours)
    return (
        f"{weights.location} holds weights of {theirs}, not of {ours}: give {theirs} as the name of the model, or "
        f'"auto", or weights of {ours}' + (f", such as {published}." if published else ".")
    )


def _mismatch(weights: Weights, problems: list[str]) -> str:
    shown = problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else [])
    first = f"{weights.location} ({weights.key_mapping.name} names) does not fit the model"
    if weights.model:
        # What to do first: the list may be long.
        first += f'. These are weights of {weights.model}: give that as the name of the model, or "auto"'
    return "\n  ".join([f"{first}:", *shown])
