"""The exponential moving average of what trains (Polyak and Juditsky, 1992): weights and BatchNorm statistics.

Averages are held by path with the collection in front ("params/head/kernel"), and for trained leaves alone: what is
frozen equals its average.
"""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxtl.finetune.freezing import module_trains
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.trees import Params, flatten, nest

Average: TypeAlias = dict[str, jax.Array]


def trained_leaves(variables: Mapping[str, Params], groups: Mapping[str, str]) -> Average:
    """Returns the leaves that training moves: trainable parameters, and the statistics of the modules they are in.

    Args:
      variables: "params" and the other collections.
      groups: path of each parameter -> its group, or "frozen".
    """
    trains = module_trains(groups)

    def moves(path: str) -> bool:
        collection, _, rest = path.partition("/")
        return groups[rest] != FROZEN if collection == "params" else trains(rest.split("/")[:-1])

    return {path: leaf for path, leaf in flatten(variables).items() if moves(path)}


def update(
    average: Average, variables: Mapping[str, Params], *, decay: float, step: jax.Array, since: Mapping[str, int]
) -> Average:
    """Returns the average after one more step.

    The decay of update t is min(decay, (1 + t) / (10 + t)), so that an early average forgets its start.

    Args:
      average: from `trained_leaves`, or the last update.
      variables: after the step.
      decay: the share that an average keeps of itself, in [0, 1).
      step: number of steps before this one, int32 [].
      since: path of a parameter -> the step at which it began to train; 0 where absent.
    """
    now = flatten(variables)
    begun = {path: since.get(path.partition("/")[2], 0) for path in average}
    if since:
        # The statistics of a module began to move with its first parameter.
        for path in average:
            collection, _, rest = path.partition("/")
            if collection != "params":
                module = rest.rpartition("/")[0] + "/"
                begun[path] = min((at for other, at in since.items() if other.startswith(module)), default=0)

    def rate(start: int) -> jax.Array:
        t = (step - start).astype(jnp.float32)
        return 1 - jnp.minimum(decay, (1 + t) / (10 + t))

    rates = {start: rate(start) for start in set(begun.values())}
    # Written as a step towards the new value: an average that has arrived stays where it is, to the bit.
    return {path: old + rates[begun[path]].astype(old.dtype) * (now[path] - old) for path, old in average.items()}


def averaged(variables: Mapping[str, Params], average: Average) -> dict[str, Params]:
    """Returns the variables with their averages in place of what trains."""
    return nest({**flatten(variables), **average})
