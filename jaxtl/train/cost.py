"""What a step costs, read off the program that the compiler makes of it: the proof that freezing saves."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models import unrolled
from jaxtl.models.backend import compiling_for
from jaxtl.train.features import Suffix
from jaxtl.train.optimizer import make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step

Cost = dict[str, float]


def step_cost(compiled: Any, state: TrainState, *, devices: int = 1, parts: int = 1) -> Cost:
    """Returns the cost of a compiled step.

    Args:
      compiled: what `.lower(...).compile()` gave.
      state: that it takes, as arrays or shapes of one copy.
      devices: that share the batch; the compiler counts for one of them.
      parts: of an accumulated batch; the compiler counts the body of the loop over them once.

    Returns:
      "step_gflop" (of the whole batch), and on each device "optimizer_bytes", "temp_bytes" (held during the step alone)
      and "peak_bytes" (with the state and a batch).
    """
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    sizes = {name: int(getattr(memory, f"{name}_size_in_bytes", 0)) for name in ("argument", "output", "alias", "temp")}
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    return {
        "step_gflop": analysis.get("flops", 0.0) * devices * parts / 1e9,
        "optimizer_bytes": int(held),
        "temp_bytes": sizes["temp"],
        # What is given away is there once: as argument and as output.
        "peak_bytes": sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"],
    }


def model_gflop(step: partial[Any], state: TrainState, batch: Any) -> float:
    """Returns the GFLOP that the mathematics of a step ask for: of the whole batch, with nothing computed twice.

    The compiler counts the body of a loop once, and what is computed again to save memory is no work done.

    Args:
      step: `train_step` with its options.
      state: that it takes, as arrays or shapes.
      batch: likewise.
    """
    model = step.keywords["model"]
    plain: Any = Suffix(unrolled(model.module), model.start) if isinstance(model, Suffix) else unrolled(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, dict(batch)))
    return _gflop(partial(step, model=plain, accumulate=1), *shapes)


def reference_cost(
    model: nn.Module, variables: Mapping[str, Any], assignment: Mapping[str, str], image: jax.ShapeDtypeStruct
) -> Cost:
    """Returns "forward_gflop" and "full_gflop": of evaluating a batch, and of a step that trains everything.

    Nothing is compiled: the programs are counted as they are handed to the compiler.

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
    # Another form of an operation takes fewer products, or hides them from the count.
    with compiling_for("none"):
        analysis: Any = jax.jit(function).lower(*shapes).cost_analysis()
    return (analysis or {}).get("flops", 0.0) / 1e9
