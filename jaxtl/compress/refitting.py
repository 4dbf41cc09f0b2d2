"""What stays of a layer, fitted anew to what the whole layer gave on training images, by least squares.

Weights that go leave an error that the others of their unit can make up for, as far as their inputs tell the same
(optimal brain surgeon, Hassibi et al., 1993, https://doi.org/10.1109/ICNN.1993.298572; for large layers
https://arxiv.org/abs/2301.00774). Here each unit's are found exactly, by a linear system of its own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.linear import canonicalize_padding

from jaxtl.compress.input_norms import NORMS, add_squares
from jaxtl.compress.quantization import is_layer

GRAM = "gram"
"""The name of the products of a layer's inputs, beside their "squares"."""

# Wider layers would keep more numbers for it than most have weights, and take minutes for a unit.
_WIDEST = 4096
# Added to the diagonal, as a share of its mean: inputs that hardly vary are no reason for large weights.
_DAMPING = 0.01
_AT_ONCE = 16  # Units whose systems are solved together.


def add_grams(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
    """Adds up squares as `add_squares`, and the products of all pairs of what a unit reads, [inputs, inputs].

    Of a convolution these are the places of its window, in the order of its kernel [h, w, C, units].
    """
    result = add_squares(call, args, kwargs, context)
    module = context.module
    if context.method_name != "__call__" or not is_layer(module):
        return result
    kernel = module.get_variable("params", "kernel")
    if kernel is None or kernel.ndim not in (2, 4) or int(np.prod(kernel.shape[:-1])) > _WIDEST:
        return result
    rows = _rows(module, args[0].astype(jnp.float32), kernel.shape)
    if rows is not None:
        total = module.variable(NORMS, GRAM, lambda: jnp.zeros((rows.shape[-1],) * 2, jnp.float32))
        total.value += rows.T @ rows
    return result


def _rows(module: nn.Module, x: jax.Array, shape: tuple[int, ...]) -> jax.Array | None:
    """Returns what the units of a layer read, a row for each place [N, inputs]; None of layers of another kind."""
    if len(shape) == 2:
        return x.reshape(-1, x.shape[-1]) if x.shape[-1] == shape[0] else None
    if not isinstance(module, nn.Conv) or module.feature_group_count != 1 or x.ndim != 4:
        return None
    padding = canonicalize_padding(module.padding, 2)
    if padding == "CIRCULAR" or module.kernel_dilation not in (1, (1, 1)) or module.input_dilation not in (1, (1, 1)):
        return None
    strides = (module.strides,) * 2 if isinstance(module.strides, int) else tuple(module.strides or (1, 1))
    patches = jax.lax.conv_general_dilated_patches(
        x, shape[:2], strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # It gives the places of a channel side by side; the kernel has the channels of a place so.
    by_channel = patches.reshape(-1, shape[2], shape[0] * shape[1])
    return by_channel.swapaxes(1, 2).reshape(len(by_channel), -1)


@jax.jit
def refit(kernel: jax.Array, mask: jax.Array, gram: jax.Array) -> jax.Array:
    """Returns the kernel whose weights that stay give most nearly what all of them gave.

    Args:
      kernel: [inputs, units].
      mask: which of its weights stay, of the same shape.
      gram: the products of inputs, summed over examples [inputs, inputs].
    """
    gram = _damped(gram)

    def of_unit(each: tuple[jax.Array, jax.Array]) -> jax.Array:
        weights, stays = each
        # Rows and columns of what goes are those of the identity, so that all units have systems of one size.
        system = jnp.where(stays[:, None] & stays[None, :], gram, 0) + jnp.diag(jnp.where(stays, 0.0, 1.0))
        found = jax.scipy.linalg.solve(system, jnp.where(stays, gram @ weights, 0), assume_a="pos")
        # Products that are not finite say nothing to fit to.
        return jnp.where(stays, jnp.where(jnp.isfinite(found).all(), found, weights), 0)

    return jax.lax.map(of_unit, (kernel.T, mask.T), batch_size=_AT_ONCE).T


def refit_rows(kernel: np.ndarray, rows: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Returns the kernel that reads some of its inputs alone, and gives most nearly what it gave by all of them.

    Args:
      kernel: [inputs, units].
      rows: places of the inputs that stay [K].
      gram: as of `refit`.

    Returns:
      [K, units].
    """
    whole = np.asarray(_damped(jnp.asarray(gram)), np.float64)
    found = np.linalg.solve(whole[np.ix_(rows, rows)], whole[rows] @ np.asarray(kernel, np.float64))
    return found.astype(kernel.dtype) if np.isfinite(found).all() else kernel[rows]


def _damped(gram: jax.Array) -> jax.Array:
    """Returns the products by the mean of their diagonal, damped: whatever factor they have, the solution is the same.

    Of inputs that are all zero only the damping is left, with which weights stay as they are; as a share of their mean
    it would be too small a number for float32, which would make zeros of them.
    """
    mean = jnp.diag(gram).mean()
    return gram / jnp.where(mean > 0, mean, 1) + _DAMPING * jnp.eye(len(gram))
