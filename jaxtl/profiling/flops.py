"""The FLOP of a function, counted from its jaxpr: the same number on every backend, to the last digit."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from jaxtl.parallel.backend import compiling_for

# Kernels that are no jaxpr, and what multiplies by rules of its own: to leave them out would be a count too low.
_OPAQUE = re.compile(r"pallas_call|mpmd_map|ffi_call|shard_map|ragged_dot|scaled_matmul|dot_product_attention")


def count_flops(function: Callable[..., Any], *shapes: Any) -> int:
    """Returns the floating-point operations of all matrix products and convolutions of a function.

    A product and its addition to a sum are two operations, as in the peaks of accelerators and in the literature on
    model FLOPs utilisation. Operations on single elements are left out: they take memory traffic, not arithmetic.
    Nothing is compiled and no device is asked, so the count is the same wherever it is taken.

    Results that nothing reads cost nothing. A `scan` costs its body times its length; of a `cond` the most expensive
    branch counts; of a `while` one round, since only running it would tell how many there are. What `jax.checkpoint`
    computes a second time counts a second time.

    Args:
      function: what to count, of pytrees of arrays.
      *shapes: its arguments, as arrays or shapes.

    Returns:
      The number of operations (FLOP, not GFLOP); 0 where nothing is multiplied.

    Raises:
      NotImplementedError: part of the function is a kernel whose products cannot be seen.
    """
    with compiling_for("none"):
        # JAX keeps what it traced by function: a new one each time, so that none is counted as another backend has it.
        closed = jax.make_jaxpr(lambda *arguments: function(*arguments))(*shapes)
    return _count(dce_jaxpr(closed.jaxpr, True)[0])


def _count(jaxpr: Any) -> int:
    return sum(map(_operations, jaxpr.eqns))


def _operations(equation: Any) -> int:
    """Returns the FLOP of one equation, with those of the jaxprs in it."""
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _matrix_product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if _OPAQUE.match(name):
        raise NotImplementedError(
            f"the products of {name!r} cannot be counted: use an operation's plain form where "
            'jaxtl.parallel.backend.backend() is "none"'
        )
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(parameters)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _matrix_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """Returns the FLOP of a convolution: of the products that meet an element, neither padding nor a hole between two.

    So the gradients of a strided convolution, whose operands have holes, take as much as the convolution itself.
    """
    parameters = equation.params
    image, kernel, result = parameters["dimension_numbers"]
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    met = 1
    for axis, (low, _) in enumerate(parameters["padding"]):
        size, taps, places = (
            shape[spec[2 + axis]] for shape, spec in zip(shapes, (image, kernel, result), strict=True)
        )
        hole, spread = parameters["lhs_dilation"][axis], parameters["rhs_dilation"][axis]
        start = np.arange(places)[:, None] * parameters["window_strides"][axis] - low
        reached = start + np.arange(taps) * spread
        # With holes the elements lie at 0, hole, 2 hole, ...
        met *= int(np.sum((reached >= 0) & (reached < size * hole) & (reached % hole == 0)))
    # A kernel has the input channels of one group already; of the batch, the result has those rows that are kept apart.
    channels, features = shapes[1][kernel[1]], shapes[1][kernel[0]]
    return 2 * shapes[2][result[0]] * channels * features * met
