"""Convolution and max pooling in the form that the backend does fastest."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jaxtl.models.layers.depthwise import convolve_channels, pads_of
from jaxtl.models.layers.kernel_gradient import convolve_patches
from jaxtl.models.layers.windows import max_over_windows
from jaxtl.models.layers.winograd import convolve_tiles
from jaxtl.parallel.backend import backend

Padding = str | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], ...]


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any) -> jax.Array:
    """Convolves [B, H, W, C] with [h, w, C, features]; the options are those of `jax.lax.conv_general_dilated`."""
    sides = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    dilated = any(side != 1 for name in ("lhs_dilation", "rhs_dilation") for side in options.get(name) or ())
    grouped = options.get("feature_group_count", 1) > 1 or options.get("batch_group_count", 1) > 1
    if grouped and not dilated and backend() == "cpu" and _is_depthwise(x, kernel, options):
        return convolve_channels(x, kernel, strides, padding)
    if dilated or grouped or backend() not in ("cpu", "gpu"):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if backend() == "gpu":
        return _convolve_on_gpu(x, kernel, tuple(strides), sides, options)
    if kernel.shape[:2] == (1, 1) and (isinstance(sides, str) or sides == ((0, 0), (0, 0))):
        # A convolution of one pixel is a matrix product, which takes a CPU half the time; so do its gradients.
        x = x[:, :: strides[0], :: strides[1]]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    if x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    down, across = strides
    pads = pads_of(x.shape, kernel.shape, strides, padding)
    channels, features = kernel.shape[2:]
    if (
        kernel.shape[:2] == (3, 3)
        and (down, across) == (1, 1)
        and min(channels, features) >= 32
        and channels <= 2 * features
    ):
        # Half the time of XLA's own; with fewer channels, as in the first stage of a CIFAR ResNet, the sums take more
        # than the products save. Not from many to few: with the 58 such layers of DenseNet-121 a step compiles for 5
        # minutes, and is no faster.
        if pads == ((1, 1), (1, 1)):
            return convolve_tiles(x, kernel)
        if pads == ((0, 0), (0, 0)) and min(x.shape[1:3]) > 2:
            return convolve_tiles(x, kernel)[:, 1:-1, 1:-1]
    return convolve_patches(x, kernel, (down, across), pads)


def _is_depthwise(x: jax.Array, kernel: jax.Array, options: Mapping[str, Any]) -> bool:
    """Tells whether each channel is convolved alone, by a window so small that its places can be written out."""
    height, width, _, features = kernel.shape
    alone = options.get("feature_group_count") == x.shape[-1] == features and height * width <= 64
    return alone and options.get("batch_group_count", 1) == 1 and x.dtype == kernel.dtype == jnp.float32


def _convolve_on_gpu(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], sides: Any, options: Mapping[str, Any]
) -> jax.Array:
    height, width, channels, features = kernel.shape
    whole = strides == (1, 1) and (isinstance(sides, str) or sides == ((0, 0), (0, 0)))
    if (height, width) == (1, 1) and whole:
        # A matrix product: cuBLAS reads the kernel as it lies, and its calls can be captured as a CUDA graph.
        return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:3], features)
    is_stem = (height, width) == (7, 7) and strides == (2, 2) and sides == ((3, 3), (3, 3)) and channels <= 4
    if is_stem and x.shape[1] % 2 == x.shape[2] % 2 == 0:
        x, kernel = _by_blocks(x, kernel)
        strides, sides = (1, 1), ((2, 1), (2, 1))
    return jax.lax.conv_general_dilated(x, _kept_in_order(kernel), strides, sides, **options)


def _by_blocks(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Turns a 7 x 7 convolution at stride 2 into one of 4 x 4 at stride 1, over blocks of 2 x 2 pixels.

    Tensor cores want 8 channels or more, and an image has three: on an H100 the stem takes 0.3 ms in place of 0.8, and
    its gradient half the time too. Returns [B, H/2, W/2, 16] and [4, 4, 16, features]; the last channels are zero.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height // 2, width // 2, 4 * channels)
    # A row and a column of zeros before the kernel, for its pixels to fall on whole blocks.
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 4 * channels, -1)
    spare = (0, 16 - 4 * channels)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), spare)), jnp.pad(kernel, ((0, 0), (0, 0), spare, (0, 0)))


@jax.custom_vjp
def _kept_in_order(kernel: jax.Array) -> jax.Array:
    """A kernel whose gradient lies as the kernel does.

    cuDNN gives it in another order. Left to itself XLA computes the optimizer's step in that order, and then turns
    parameter and moments back: 156 copies in a step of ResNet-50.
    """
    return kernel


def _in_order(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim)))),)


_kept_in_order.defvjp(lambda kernel: (kernel, None), _in_order)


def max_pool(x: jax.Array, padding: Padding, train: bool) -> jax.Array:
    """Takes the maximum of [B, H, W, C] over windows of 3 x 3 at stride 2; `train` if it will be differentiated."""
    if not train or backend() not in ("cpu", "gpu"):
        return max_over_windows(x, (3, 3), (2, 2), padding)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), padding)
    # Its gradient takes a CPU ten times as long as what follows, and a GPU scatters it.
    return _max_pool(x, tuple(map(tuple, padding)), x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, padding: Pads, sides: tuple[int, int]) -> jax.Array:
    return _max_pool_forward(x, padding, sides)[0]


def _max_pool_forward(x: jax.Array, padding: Pads, sides: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima, and for the way back where in its window each was found: 0 to 8, row after row."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    height, width = ((side - 3) // 2 + 1 for side in padded.shape[1:3])
    best = padded[:, : 2 * height - 1 : 2, : 2 * width - 1 : 2]
    place = jnp.zeros(best.shape, jnp.int8)
    for number in range(1, 9):
        i, j = divmod(number, 3)
        part = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        # Of equal ones the first counts, as in the gradient of max pooling.
        place = jnp.where(part > best, jnp.int8(number), place)
        best = jnp.where(part > best, part, best)
    return best, place


def _max_pool_backward(
    padding: Pads, sides: tuple[int, int], place: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    """Sums for each pixel the gradients of the windows whose maximum it was; it lies in one, two or four of them."""
    # Padded first, and kept so: else each of the sums below would ask of each pixel whether it lies inside.
    edges = [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]
    gradient = _kept_apart(jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), edges))
    place = _kept_apart(jax.lax.pad(place, jnp.int8(-1), edges))
    height, width = (side - 1 for side in gradient.shape[1:3])
    # Lines 2 n of the padded map are the first of window n and the last of the one before it, lines 2 n + 1 the middle.
    windows = (((0, 1), (2, 0)), ((1, 1),))

    def phase(down: int, across: int) -> jax.Array:
        total = jnp.zeros((), gradient.dtype)
        for i, top in windows[down]:
            for j, left in windows[across]:
                part = (slice(None), slice(top, top + height), slice(left, left + width))
                total = total + jnp.where(place[part] == 3 * i + j, gradient[part], 0)
        return _kept_apart(total)

    rows = [jnp.stack([phase(down, across) for across in range(2)], axis=3) for down in range(2)]
    padded = jnp.stack(rows, axis=2).reshape(gradient.shape[0], 2 * height, 2 * width, -1)
    # The padding goes; what no window reaches is 0.
    cuts = [(-padding[axis][0], sides[axis] + padding[axis][0] - padded.shape[1 + axis], 0) for axis in range(2)]
    return (jax.lax.pad(padded, jnp.zeros((), padded.dtype), [(0, 0, 0), *cuts, (0, 0, 0)]),)


def _kept_apart(x: jax.Array) -> jax.Array:
    """An array that a CPU computes before what reads it; a GPU takes both in one pass."""
    return jax.lax.optimization_barrier(x) if backend() == "cpu" else x


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
