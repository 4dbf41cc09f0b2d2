"""Pruning by what weights do: their size times the norm of their input, each unit by itself (Wanda).

A weight whose input is small moves its unit little, however large it is (https://arxiv.org/abs/2306.11695).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.compress.pruning import structured_mask
from jaxtl.compress.quantization import is_layer
from jaxtl.trees import Params, flatten, nest

NORMS = "input_norms"
"""The collection of sums of squared inputs, of each layer and channel."""


def add_squares(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
    """Adds up the squares of a layer's inputs, channel by channel, as an interceptor of Linen's methods."""
    module = context.module
    if context.method_name == "__call__" and is_layer(module):
        x = args[0].astype(jnp.float32)
        total = module.variable(NORMS, "squares", lambda: jnp.zeros(x.shape[-1], jnp.float32))
        total.value += jnp.square(x).reshape(-1, x.shape[-1]).sum(axis=0)
    return call(*args, **kwargs)


def prune_by_inputs(
    params: Params, squares: Params, paths: Sequence[str], sparsity: float, pattern: str = ""
) -> dict[str, Any]:
    """Returns parameters, nested, of which each unit has lost that share of its weights.

    Args:
      params: nested parameters.
      squares: what `add_squares` added up, nested; a layer that is not there has inputs of one norm.
      paths: of the kernels that are pruned.
      sparsity: the share, rounded to whole weights of a unit.
      pattern: "2:4" for two of each four inputs instead.
    """
    leaves, totals = flatten(params), flatten(squares)
    for path in paths:
        kernel = jnp.asarray(leaves[path])
        total = totals.get(path.removesuffix("kernel") + "squares")
        norms = jnp.ones(kernel.shape[-2]) if total is None else jnp.sqrt(jnp.asarray(total))
        # A depthwise kernel reads one channel a unit, and has no axis for it.
        norms = norms if norms.size == kernel.shape[-2] else jnp.ones(kernel.shape[-2])
        scores = jnp.abs(kernel) * norms.reshape(*(1,) * (kernel.ndim - 2), -1, 1)
        mask = structured_mask(scores) if pattern else unit_mask(scores, sparsity)
        leaves[path] = jnp.where(mask, kernel, 0)
    return nest(leaves)


def unit_mask(scores: jax.Array, sparsity: float) -> jax.Array:
    """Marks of each unit [..., units] the weights that stay: all but a share, those of the lowest scores."""
    rows = scores.reshape(-1, scores.shape[-1])
    ranks = jnp.argsort(jnp.argsort(rows, axis=0, stable=True), axis=0, stable=True)
    return (ranks >= round(sparsity * rows.shape[0])).reshape(scores.shape)
