"""Everything a step reads and writes, as arrays only."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """The state of training, a pytree of arrays.

    Attributes:
      step: number of finished steps, int32 [].
      params: the parameters, nested dicts.
      model_state: every collection other than params: {"batch_stats": ...} for ResNet, {} for ViT.
      opt_state: what the optimizer keeps; nothing for a frozen leaf.
      rng: the key that all randomness of step s derives from by fold_in(rng, s).
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    rng: jax.Array

    @classmethod
    def create(cls, variables: Any, optimizer: optax.GradientTransformation, rng: jax.Array) -> "TrainState":
        """Returns the state before the first step, from the variables that `model.init` or `adopt` gave."""
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables["params"]
        return cls(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), rng)

    @property
    def variables(self) -> dict[str, Any]:
        """The parameters and collections, as `model.apply` takes them."""
        return {"params": self.params, **self.model_state}
