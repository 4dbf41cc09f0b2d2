"""Everything a step reads and writes, as arrays only."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxtl.train.loss_scaling import start
from jaxtl.trees import Params, Tree

Batch: TypeAlias = Mapping[str, jax.Array]
# Parameters, or their gradients, by path.
Leaves: TypeAlias = Mapping[str, jax.Array]
Scalars: TypeAlias = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """The state of training, a pytree of arrays.

    Attributes:
      step: number of finished steps, int32 [].
      params: the parameters, nested dicts.
      model_state: every collection other than params: {"batch_stats": ...} for ResNet, {} for ViT.
      opt_state: what the optimizer keeps; nothing for a frozen leaf.
      rng: the key that all randomness of step s derives from by fold_in(rng, s).
      ema: averages of what trains (see `ema.trained_leaves`), or {}.
      scaling: of the loss (see `scaling.start`), or {}.
    """

    step: jax.Array
    params: Params
    model_state: Mapping[str, Params]
    opt_state: optax.OptState
    rng: jax.Array
    ema: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    scaling: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        variables: Mapping[str, Params],
        optimizer: optax.GradientTransformation,
        rng: jax.Array,
        *,
        ema: dict[str, jax.Array] | None = None,
        loss_scale: float = 0.0,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
          variables: what `model.init` or `load_pretrained` gave.
          optimizer: whose state to begin.
          rng: the key of the run.
          ema: what `ema.trained_leaves` gave, to keep a moving average of it; None for none.
          loss_scale: the first factor of dynamic loss scaling; 0 for none.
        """
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables["params"]
        scaling = start(loss_scale) if loss_scale else {}
        return cls(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), rng, dict(ema or {}), scaling)

    @property
    def variables(self) -> dict[str, Params]:
        """The parameters and collections, as `model.apply` takes them."""
        return {"params": self.params, **self.model_state}


def with_params(tree: Tree, change: Callable[[Params], Params]) -> Tree:
    """Returns a state, or variables, with its parameters changed; any other tree as it is."""
    if isinstance(tree, TrainState):
        return dataclasses.replace(tree, params=change(tree.params))
    return {**tree, "params": change(tree["params"])} if isinstance(tree, Mapping) and "params" in tree else tree


# What takes one step: a train step with all but its state and its batch given.
Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Scalars]]
