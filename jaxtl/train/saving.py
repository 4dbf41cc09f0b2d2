"""What a checkpoint holds of a run: its state and the loop's progress, and the way back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxtl.checkpoints.frozen import Frozen
from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.checkpoints.retention import Score
from jaxtl.train import ema
from jaxtl.train.progress import Progress
from jaxtl.train.state import TrainState
from jaxtl.trees import Params, Tree, flatten

# Collections of which it is known what a frozen module leaves as it is.
_FROZEN_IN = ("params", "batch_stats")


def save(
    checkpoints: Checkpoints,
    step: int,
    state: TrainState,
    progress: Progress,
    score: Score | None,
    frozen: Frozen,
) -> None:
    """Saves a checkpoint of the state and the loop's progress; its variables are those that were better."""
    if progress.averaged:
        state = swap_ema(state)
    checkpoints.save(step, state.variables, rest_of(state), progress.to_json(), score, frozen)


def frozen_in(variables: Mapping[str, Params], groups: Mapping[str, str]) -> Frozen:
    """Returns what training leaves as it is: frozen parameters, and the BatchNorm statistics of frozen modules.

    Args:
      variables: "params" and the other collections.
      groups: path of each parameter -> its group, or "frozen".
    """
    moving = ema.trained_leaves(variables, groups)
    kept = {name: tree for name, tree in variables.items() if name in _FROZEN_IN}
    return Frozen(flatten(kept).keys() - moving.keys())


def restore(checkpoints: Checkpoints, like: Callable[[int], TrainState]) -> tuple[TrainState, Progress] | None:
    """Returns the newest checkpoint that is whole, or None; `like` tells shapes and structure at a step."""

    def parts(step: int) -> tuple[Tree, Tree]:
        state = like(step)
        return state.variables, rest_of(state)

    found = checkpoints.restore_latest(parts)
    if found is None:
        return None
    _, variables, rest, metadata = found
    progress = Progress(**metadata)
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    rng = jax.random.wrap_key_data(rest["rng"])
    state = TrainState(
        rest["step"],
        variables["params"],
        model_state,
        rest["opt_state"],
        rng,
        rest.get("ema", {}),
        rest.get("scaling", {}),
    )
    return (swap_ema(state) if progress.averaged else state), progress


def rest_of(state: TrainState) -> dict[str, Any]:
    """Returns what of a state is not variables, as arrays that a file can hold."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": jax.random.key_data(state.rng)}
    optional = {"ema": state.ema, "scaling": state.scaling}
    return rest | {key: tree for key, tree in optional.items() if tree}


def swap_ema(state: TrainState) -> TrainState:
    """Returns the state with what trains and its averages in each other's place."""
    variables = flatten(state.variables)
    average = {path: variables[path] for path in state.ema}
    collections = ema.averaged(state.variables, state.ema)
    params = collections.pop("params")
    return dataclasses.replace(state, params=params, model_state=collections, ema=average)
