"""What a step costs, read off the program that the compiler makes of it: the proof that freezing saves."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
      "step_gflop" (of the whole batch), "optimizer_bytes" and "temp_bytes" (on each device).
    """
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    return {
        "step_gflop": analysis.get("flops", 0.0) * devices * parts / 1e9,
        "optimizer_bytes": int(held),
        "temp_bytes": int(getattr(memory, "temp_size_in_bytes", 0)),
    }


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
    analysis: Any = jax.jit(function).lower(*shapes).cost_analysis()
    return (analysis or {}).get("flops", 0.0) / 1e9
