"""Fills a model with opened weights, leaf by leaf, and accounts for every array on both sides."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import UserError
from jaxtl.weights import rename
from jaxtl.weights.passport import Passport
from jaxtl.weights.source import Weights

Variables = dict[str, Any]


def abstract_variables(model: nn.Module, image_size: int, channels: int = 3) -> dict[str, jax.ShapeDtypeStruct]:
    """Gives shape and type of every leaf, by path, without computing anything."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def initialise(model: nn.Module, rng: jax.Array, image_size: int, *, channels: int = 3) -> Variables:
    """Initialises a model at random, under jit: {"params": ..., "batch_stats": ... where it has any}."""
    return nest(_initialise_leaves(model, rng, image_size, channels, None))


def _initialise_leaves(
    model: nn.Module, rng: jax.Array, image_size: int, channels: int, paths: set[str] | None
) -> dict[str, Any]:
    def init(rng: jax.Array) -> dict[str, jax.Array]:
        tree = model.init(rng, jnp.zeros((1, image_size, image_size, channels)))
        leaves = {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        # What is not returned is not computed either: the compiler drops it.
        return {path: leaf for path, leaf in leaves.items() if paths is None or path in paths}

    return jax.jit(init)(rng)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turns {"a/b": leaf} into {"a": {"b": leaf}}."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def adopt(
    weights: Weights,
    model: nn.Module,
    *,
    image_size: int,
    head: str = "auto",
    classes: tuple[str, ...] | None = None,
    rng: jax.Array,
    channels: int = 3,
) -> tuple[Variables, Passport]:
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
      the variables {"params": ..., "batch_stats": ...} as `model.init` gives them, and the passport.

    Raises:
      UserError: lists every array that found no place, every leaf that stayed empty, and every shape that differs.
    """
    leaves = abstract_variables(model, image_size, channels)
    head_paths = {path for path in leaves if _in_head(path, model)}
    keep_head, reason = _decide_head(weights, model, head, classes)
    filled: dict[str, Any] = {}
    passport = Passport.begin(weights, head=reason)
    problems = [f"{name}: no rule names this array" for name in weights.plan.unknown]
    for path, parts in weights.plan.parts.items():
        if _in_head(path, model) and not keep_head:
            passport.dropped.extend(part.source for part in parts)
        elif path not in leaves:
            problems.append(f"{', '.join(part.source for part in parts)}: the model has no {path}")
        elif weights.shapes[path] != leaves[path].shape:
            problems.append(f"{path}: the weights have {weights.shapes[path]}, the model {leaves[path].shape}")
        else:
            filled[path] = _load(weights, path)
            passport.loaded[path] = list(leaves[path].shape)
    passport.dropped.extend(weights.plan.unused)
    allowed = set() if keep_head else head_paths
    empty = [path for path in leaves if path not in weights.plan.parts and path not in allowed]
    problems += [f"{path}: the weights have nothing for it" for path in empty]
    if problems:
        raise UserError(_misfit(weights, problems))
    missing = set(leaves) - set(filled)
    passport.initialised.extend(sorted(missing))
    if missing:
        filled |= _initialise_leaves(model, rng, image_size, channels, missing)
    return nest({path: filled[path] for path in leaves}), passport


def _load(weights: Weights, path: str) -> jax.Array:
    array = rename.fill(weights.plan.parts[path], weights.arrays)
    # A copy: a buffer shared with numpy must not be donated to a training step.
    return jnp.array(array.astype(np.float32, copy=False), copy=True)


def _in_head(path: str, model: nn.Module) -> bool:
    pattern = dict(model.groups())["head"]
    return re.match(rf"(?:{pattern})(?:/|$)", path.partition("/")[2]) is not None


def _decide_head(weights: Weights, model: nn.Module, head: str, classes: tuple[str, ...] | None) -> tuple[bool, str]:
    """Decides whether the head of the weights is kept, and says why."""
    wanted: int = model.num_classes
    if head not in ("auto", "keep", "new"):
        raise UserError(f"head {head!r} is none of auto, keep, new.")
    if not wanted:
        return False, "cut: the model is built without one"
    if head == "new":
        return False, "new: as asked"
    if not weights.num_classes:
        obstacle = "the weights have none"
    elif weights.num_classes != wanted:
        obstacle = f"the weights have {weights.num_classes} classes, {wanted} are wanted"
    elif weights.classes and classes and _contradict(weights.classes, classes):
        obstacle = f"the class names differ ({weights.classes[0]!r} ... against {classes[0]!r} ...)"
    else:
        return True, f"kept: {wanted} classes"
    if head == "keep":
        raise UserError(f"{weights.location}: its head cannot be kept, {obstacle}; ask for head=new or auto.")
    return False, f"new: {obstacle}"


def _contradict(theirs: tuple[str, ...], ours: tuple[str, ...]) -> bool:
    """Compares class names at equal positions, by their first synonym; most must agree."""
    pairs = zip(theirs, ours, strict=True)
    return sum(_plain(a) == _plain(b) for a, b in pairs) * 2 < len(ours)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.partition(",")[0]).strip().casefold()


def _misfit(weights: Weights, problems: list[str]) -> str:
    shown = problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else [])
    return f"{weights.location} ({weights.naming.name} names) does not fit the model:\n  " + "\n  ".join(shown)
