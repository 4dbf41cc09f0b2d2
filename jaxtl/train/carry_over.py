"""The state of one stage of a run made that of the next."""

import dataclasses

import jax
import optax

from jaxtl.finetune.stages import Stage
from jaxtl.train import ema
from jaxtl.train.state import TrainState


def carry_over(state: TrainState, stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state at the start of a stage: what goes on keeps moments and averages, what is new has fresh ones.

    Args:
      state: at the end of the stage before.
      stage: that begins.
      optimizer: of that stage.
    """
    old = dict(jax.tree_util.tree_leaves_with_path(state.opt_state))
    fresh = jax.tree_util.tree_map_with_path(lambda path, leaf: old.get(path, leaf), optimizer.init(state.params))
    average = state.ema
    if average:
        average = {
            path: average.get(path, leaf) for path, leaf in ema.trained_leaves(state.variables, stage.labels).items()
        }
    return dataclasses.replace(state, opt_state=fresh, ema=average)
