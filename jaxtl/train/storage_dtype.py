"""Frozen parameters kept in bfloat16 on the devices, at half the size, and given back as they came.

Only what the model itself rounds to bfloat16 before any use is kept so: results stay the same to the bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from jaxtl.models import unrolled
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.train.state import Leaves, with_params
from jaxtl.trees import Params, flatten, nest


def rounded_leaves(model: nn.Module, variables: Mapping[str, Params], image: jax.ShapeDtypeStruct) -> set[str]:
    """Returns the paths of the float32 parameters that a model uses in no other way than rounded to bfloat16.

    Args:
      model: called as model.apply(variables, images, train=True).
      variables: its variables, or their shapes.
      image: shape of a batch of images.
    """
    leaves = flatten(variables["params"])
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    others = {key: tree for key, tree in variables.items() if key != "params"}

    def forward(leaves: Leaves, images: jax.Array) -> tuple[jax.Array, Params]:
        rngs = {"dropout": jax.random.key(0)}
        tree = {"params": nest(leaves), **others}
        return unrolled(model).apply(tree, images, train=True, mutable=list(others), rngs=rngs)

    # Dicts become leaves in the order of their keys.
    jaxpr = jax.make_jaxpr(forward)(shapes, image).jaxpr
    return {
        path
        for path, var in zip(sorted(shapes), jaxpr.invars, strict=False)
        if shapes[path].dtype == jnp.float32 and _only_rounded(jaxpr, var)
    }


def _only_rounded(jaxpr: Jaxpr, var: Var) -> bool:
    """Tells whether each use of a variable is its conversion to bfloat16."""
    if any(out is var for out in jaxpr.outvars):
        return False
    for equation in jaxpr.eqns:
        places = [place for place, given in enumerate(equation.invars) if given is var]
        if not places or equation.params.get("new_dtype") == jnp.bfloat16:
            continue
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        # Calls take their operands in order; anything else is a use.
        if inner is None or len(inner.invars) != len(equation.invars):
            return False
        if not all(_only_rounded(inner, inner.invars[place]) for place in places):
            return False
    return True


def cast(params: Params, paths: set[str]) -> dict[str, Any]:
    """Returns the parameters with those at `paths` in bfloat16."""
    leaves = flatten(params)
    return nest(leaves | {path: jnp.asarray(leaves[path]).astype(jnp.bfloat16) for path in paths})


def with_cast_frozen(partitioner: Partitioner, params: Params, paths: set[str]) -> Partitioner:
    """Returns a partitioner that puts frozen parameters on the devices in bfloat16, and gives back the originals.

    Args:
      partitioner: what shards and gathers whole trees: states, or dicts with "params".
      params: the originals; a copy of those at `paths` stays in the memory of the host.
      paths: of parameters that are frozen in every stage, and rounded (see `rounded_leaves`).
    """
    leaves = flatten(params)
    originals = {path: np.asarray(jax.device_get(leaves[path])) for path in paths}

    return dataclasses.replace(
        partitioner,
        shard_state=lambda tree: partitioner.shard_state(with_params(tree, lambda found: cast(found, paths))),
        gather=lambda tree: with_params(partitioner.gather(tree), lambda found: nest(flatten(found) | originals)),
    )
