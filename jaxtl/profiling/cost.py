"""What a step costs, in arithmetic and in memory: the proof that freezing saves."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.feature_cache.features import Suffix
from jaxtl.models import unrolled
from jaxtl.profiling.flops import count_flops
from jaxtl.train.optimizer import make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

Cost = dict[str, float]


def step_cost(step: partial[Any], compiled: Any, state: TrainState, batch: Any) -> Cost:
    """Returns the cost of a step: "step_gflop" as `model_gflop` counts them, and the bytes of `memory_cost`.

    Args:
      step: `train_step` with its options.
      compiled: what `.lower(...).compile()` gave of it.
      state: that it takes, one copy, as arrays or shapes.
      batch: of the size that all devices share, likewise.
    """
    return {"step_gflop": model_gflop(step, state, batch), **memory_cost(compiled, state)}


def memory_cost(compiled: Any, state: TrainState) -> Cost:
    """Returns what a compiled step needs of each device's memory, in bytes.

    Args:
      compiled: what `.lower(...).compile()` gave.
      state: that it takes, as arrays or shapes of one copy.

    Returns:
      "optimizer_bytes", "temp_bytes" (held during the step alone) and "peak_bytes" (with the state and a batch).
    """
    memory = compiled.memory_analysis()
    sizes = {name: int(getattr(memory, f"{name}_size_in_bytes", 0)) for name in ("argument", "output", "alias", "temp")}
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    return {
        "optimizer_bytes": int(held),
        "temp_bytes": sizes["temp"],
        # What is given away is there once: as argument and as output.
        "peak_bytes": sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"],
    }


def model_gflop(step: partial[Any], state: TrainState, batch: Any) -> float:
    """Returns the GFLOP that the mathematics of a step ask for: of the whole batch, with nothing computed twice.

    They are those of its matrix products and convolutions (see `count_flops`), the same on every backend. What is
    computed again to save memory is no work done, and how the batch or the blocks are split makes no difference.

    Args:
      step: `train_step` with its options.
      state: that it takes, as arrays or shapes.
      batch: likewise.
    """
    model = step.keywords["model"]
    plain: Any = Suffix(unrolled(model.module), model.start) if isinstance(model, Suffix) else unrolled(model)
    options = dataclasses.replace(step.keywords.get("options", StepOptions()), accumulate=1)
    return computed_gflop(partial(step, model=plain, options=options), state, batch)


def computed_gflop(step: partial[Any], state: TrainState, batch: Any) -> float:
    """Returns the GFLOP of a step as it is computed: as `model_gflop`, and what remat computes again."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, dict(batch)))
    return _gflop(step, *shapes)


def reference_cost(
    model: nn.Module, variables: Mapping[str, Any], assignment: Mapping[str, str], image: jax.ShapeDtypeStruct
) -> Cost:
    """Returns "forward_gflop" and "full_gflop": of evaluating a batch, and of a step that trains everything.

    Nothing is compiled; they are counted as in `model_gflop`.

    Args:
      model: a Linen module called as model.apply(variables, images, train=...).
      variables: its variables, or their shapes.
      assignment: path of each parameter -> its group.
      image: shape of the batch, [B, H, W, C] float.
    """
    model = unrolled(model)
    variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(variables))
    optimizer = make_optimizer(assignment)
    state = jax.eval_shape(lambda tree: TrainState.create(tree, optimizer, jax.random.key(0)), variables)
    batch = {"image": image, "label": jax.ShapeDtypeStruct(image.shape[:1], jnp.int32)}

    def full(state, batch):
        return train_step(state, batch, model=model, optimizer=optimizer, groups=assignment)

    return {
        "forward_gflop": _gflop(lambda tree, images: model.apply(tree, images, train=False), variables, image),
        "full_gflop": _gflop(full, state, batch),
    }


def _gflop(function: Any, *shapes: Any) -> float:
    flop = count_flops(function, *shapes)
    if not flop:
        raise ValueError("a model without a matrix product or convolution has no cost to compare: 0 FLOP were counted")
    return flop / 1e9
