"""Kernels in 8 or 4 bits, symmetric, with a scale for each unit; inputs of layers in 8 bits, by their largest value.

A quantized network keeps float kernels that are whole multiples of their scales, or those numbers themselves: both
compute the same. Quantizing what is quantized changes nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.trees import Params, flatten, nest

FORMS = {
    "int8": "kernels in 8 bits",
    "int4": "kernels in 4 bits, but those of the first layer and of the classifier in 8",
    "w8a8": "kernels in 8 bits, and what they are multiplied with, by ranges that are measured on training images",
}
"""How a network may be quantized."""

KERNELS = "quantized"
"""The collection that holds quantized kernels in place of those among the parameters."""

RANGES = "ranges"
"""The collection of the largest absolute inputs of layers."""

_MOMENTUM = 0.9  # The share that a range keeps of itself at each batch.


def bits_of(path: str, form: str, kept: Collection[str]) -> int:
    """Returns the bits of a parameter, by its path with "params/"; 0 for one that stays float.

    Args:
      path: such as "params/block0/attn/qkv/kernel".
      form: one of FORMS.
      kept: paths of the kernels that get 8 bits in any form.
    """
    if not path.startswith("params/") or not path.endswith("/kernel"):
        return 0
    return 4 if form == "int4" and path not in kept else 8


def quantize(kernel: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Returns int8 values of the kernel's shape and a float32 scale for each unit, with 1 for all other axes.

    Args:
      kernel: [..., units].
      bits: of each number: whole numbers from -127 to 127, or of 4 bits from -7 to 7.
    """
    largest = 2 ** (bits - 1) - 1
    reached = jnp.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True).astype(jnp.float32)
    scale = jnp.where(reached > 0, reached / largest, 1.0)
    return jnp.clip(jnp.round(kernel / scale), -largest, largest).astype(jnp.int8), scale


@jax.custom_jvp
def _as_given(rounded: jax.Array, exact: jax.Array) -> jax.Array:
    del exact
    return rounded


# Straight through (https://arxiv.org/abs/1308.3432): what is rounded passes the gradient on as if it were not.
_as_given.defjvp(lambda primals, tangents: (primals[0], tangents[1]))


def rounded_kernel(kernel: jax.Array, bits: int) -> jax.Array:
    """Returns a kernel as its quantized numbers have it; gradients pass straight through."""
    values, scale = quantize(jax.lax.stop_gradient(kernel), bits)
    return _as_given(values * scale.astype(kernel.dtype), kernel)


def rounded_input(x: jax.Array, reach: jax.Array) -> jax.Array:
    """Returns an input as 8 bits have it, up to its range; a range of 0 leaves it as it is.

    Gradients pass straight through within the range, and not at all outside it.
    """
    reach = jnp.where(reach > 0, reach, jnp.inf).astype(jnp.float32)
    scale = jnp.where(jnp.isfinite(reach), reach / 127, 1.0)
    inside = jnp.clip(x, -reach.astype(x.dtype), reach.astype(x.dtype))
    rounded = (jnp.round(jax.lax.stop_gradient(inside) / scale) * scale).astype(x.dtype)
    return jnp.where(jnp.isfinite(reach), _as_given(rounded, inside), x)


def with_rounded_kernels(variables: Mapping[str, Params], form: str, kept: Collection[str]) -> dict[str, Params]:
    """Returns variables whose kernels are rounded, as training has them."""
    leaves = flatten({"params": variables["params"]})
    rounded = {
        path: rounded_kernel(leaf, bits) if (bits := bits_of(path, form, kept)) and leaf.ndim > 1 else leaf
        for path, leaf in leaves.items()
    }
    return {**variables, **nest(rounded)}


def pack(variables: Mapping[str, Params], form: str, kept: Collection[str]) -> dict[str, Any]:
    """Returns variables whose kernels are numbers of few bits, in a collection of their own, KERNELS.

    In it lie, for each kernel, "values" and "scale"; those of 4 bits two to a byte, uint8, of neighbouring units.
    """
    leaves, packed = flatten(variables), dict[str, Any]()
    for path, leaf in list(leaves.items()):
        bits = bits_of(path, form, kept)
        if not bits or jnp.ndim(leaf) < 2:
            continue
        values, scale = quantize(jnp.asarray(leaf), bits)
        name = f"{KERNELS}/{path.removeprefix('params/')}"
        packed |= {f"{name}/values": _pairs(values) if bits == 4 else values, f"{name}/scale": scale}
        del leaves[path]
    return nest({**leaves, **packed})


def unpack(variables: Mapping[str, Params]) -> dict[str, Any]:
    """Returns variables with float32 kernels among the parameters; those without KERNELS as they are."""
    leaves = flatten(variables)
    found = {path: leaf for path, leaf in leaves.items() if not path.startswith(f"{KERNELS}/")}
    for path, values in leaves.items():
        if path.startswith(f"{KERNELS}/") and path.endswith("/values"):
            name = path.removeprefix(f"{KERNELS}/").removesuffix("/values")
            found[f"params/{name}"] = unpacked_kernel(values, leaves[path.removesuffix("values") + "scale"])
    return nest(found)


def unpacked_kernel(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the float32 kernel of one's "values" and "scale"."""
    if values.dtype == jnp.uint8:
        low, high = (values & 15).astype(jnp.int8) - 8, (values >> 4).astype(jnp.int8) - 8
        values = jnp.stack([low, high], axis=-1).reshape(*values.shape[:-1], -1)[..., : scale.shape[-1]]
    return values * jnp.asarray(scale)


def _pairs(values: jax.Array) -> jax.Array:
    """Returns numbers from -8 to 7, two neighbouring units to a byte; after an odd number of units comes a zero."""
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    shifted = (values + 8).astype(jnp.uint8).reshape(*values.shape[:-1], -1, 2)
    return shifted[..., 0] | (shifted[..., 1] << 4)


def is_layer(module: nn.Module) -> bool:
    """Tells whether a module multiplies its input with a kernel of its own: a dense layer or a convolution."""
    return isinstance(module, (nn.Dense, nn.Conv)) or getattr(module, "multiplies_input", False)


def round_inputs(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
    """Rounds the inputs of layers to 8 bits, as an interceptor of Linen's methods (`nn.intercept_methods`).

    A layer's range is a variable of it in the collection RANGES; where that is mutable it follows the largest absolute
    input of each batch, as the statistics of BatchNorm do theirs.
    """
    module = context.module
    if context.method_name != "__call__" or not is_layer(module):
        return call(*args, **kwargs)
    reach = module.variable(RANGES, "input", lambda: jnp.zeros((), jnp.float32))
    if module.is_mutable_collection(RANGES) and not module.is_initializing():
        found = jnp.abs(jax.lax.stop_gradient(args[0])).max().astype(jnp.float32)
        reach.value = jnp.where(reach.value > 0, _MOMENTUM * reach.value + (1 - _MOMENTUM) * found, found)
    return call(rounded_input(args[0], reach.value), *args[1:], **kwargs)
