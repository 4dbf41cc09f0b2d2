"""How others lay out the arrays of a layer: what each kind consists of, and the way to our axes and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transform:
    """A change of layout from source to target arrays, and the way back (which may need the model's head count)."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]


def _axes(*axes: int) -> Transform:
    inverse = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(lambda x: x.transpose(axes), lambda x: x.transpose(inverse))


def _one_way(forward: Callable[[np.ndarray], np.ndarray]) -> Transform:
    def backward(array: np.ndarray) -> np.ndarray:
        raise ValueError("this layout is read only")

    return Transform(forward, backward)


SAME = Transform(lambda x: x, lambda x: x)
_DENSE = _axes(1, 0)
_CONV = _axes(2, 3, 1, 0)
_HEADS_LAST = _one_way(lambda x: x.reshape(len(x), -1))
_FLAT = _one_way(lambda x: x.reshape(-1))
_HEADS_FIRST = _one_way(lambda x: x.reshape(-1, x.shape[-1]))
_BGR = _one_way(lambda x: x[:, :, ::-1])
_CHANNELS = Transform(lambda x: x.reshape(-1), lambda x: x[:, None, None])
_TOKEN = Transform(lambda x: x[None, None], lambda x: x[0, 0])
_BATCHED = Transform(lambda x: x[None], lambda x: x[0])
# A table [heads, 2h - 1, 2w - 1] of biases by the offset from the place that asks; ours is by that to it, and flat.
_OFFSETS = Transform(
    lambda x: np.moveaxis(x[..., ::-1, ::-1], 0, -1).reshape(-1, len(x)),
    lambda x: np.moveaxis(x.reshape(math.isqrt(len(x)), -1, x.shape[-1]), -1, 0)[:, ::-1, ::-1],
)
_PIXEL = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
# Written as a dense layer; timm's small ConvNeXts have the same as a convolution of one pixel.
_EITHER = Transform(lambda x: x.reshape(x.shape[:2]).T, _DENSE.backward)
_KERAS_PIXEL = Transform(lambda x: x[0, 0], lambda x: x[None, None])
_DEPTHWISE = _one_way(lambda x: x.reshape(*x.shape[:2], 1, -1))
ONES = _one_way(np.ones_like)
"""What a layer multiplies with where its source has no array for it; the load report tells such leaves from others."""


def _torch_grid(side: int) -> Transform:
    """A dense layer over channels, rows and columns, in this order; ours is a kernel [side, side, C, features]."""
    return Transform(
        lambda x: x.reshape(len(x), -1, side, side).transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[-1], -1),
    )


def _keras_grid(side: int) -> Transform:
    """A dense layer over rows, columns and channels."""
    return Transform(lambda x: x.reshape(side, side, -1, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1]))


Leaves = tuple[tuple[str, str, Transform], ...]


def _leaves(scale: str, bias: str, mean: str, variance: str) -> Leaves:
    return (
        (scale, "params/{}/scale", SAME),
        (bias, "params/{}/bias", SAME),
        (mean, "batch_stats/{}/mean", SAME),
        (variance, "batch_stats/{}/var", SAME),
    )


def _layer(kernel: str, bias: str, transform: Transform, bias_transform: Transform = SAME) -> Leaves:
    return ((kernel, "params/{}/kernel", transform), (bias, "params/{}/bias", bias_transform))


_TORCH_BATCHNORM = _leaves(".weight", ".bias", ".running_mean", ".running_var")
# Some of Google's files keep the scale of an image normalisation as [1, 1, 1, C].
_FLAX_NORM: Leaves = (("/scale", "params/{}/scale", _FLAT), ("/bias", "params/{}/bias", _FLAT))
_KERAS_BATCHNORM = _leaves("/gamma", "/beta", "/moving_mean", "/moving_variance")
_ARRAY: Leaves = (("", "params/{}", SAME),)

LEAVES: dict[str, dict[str, Leaves]] = {
    "torch": {
        "dense": _layer(".weight", ".bias", _DENSE),
        "packed": _layer("_weight", "_bias", _DENSE),
        "conv": _layer(".weight", ".bias", _CONV),
        "pixel": _layer(".weight", ".bias", _PIXEL),
        "either": _layer(".weight", ".bias", _EITHER),
        "channels": (("", "params/{}", _CHANNELS),),
        "offsets": (("", "params/{}", _OFFSETS),),
        "token": (("", "params/{}", _TOKEN),),
        "batched": (("", "params/{}", _BATCHED),),
        **{f"grid{side}": _layer(".weight", ".bias", _torch_grid(side)) for side in (4, 5, 6, 7)},
        "norm": _TORCH_BATCHNORM[:2],
        "batchnorm": _TORCH_BATCHNORM,
        "array": _ARRAY,
    },
    "flax": {
        "dense": _layer("/kernel", "/bias", SAME),
        "split": _layer("/kernel", "/bias", _HEADS_LAST, _FLAT),
        "merge": _layer("/kernel", "/bias", _HEADS_FIRST),
        "conv": _layer("/kernel", "/bias", SAME),
        "norm": _FLAX_NORM,
        "groupnorm": _KERAS_BATCHNORM[:2],
        "array": _ARRAY,
    },
    "keras": {
        "dense": _layer("/kernel", "/bias", SAME),
        "conv": _layer("/kernel", "/bias", SAME),
        "bgr": _layer("/kernel", "/bias", _BGR),
        "depthwise": _layer("/kernel", "/bias", _DEPTHWISE),
        "pixel": _layer("/kernel", "/bias", _KERAS_PIXEL),
        "grid7": _layer("/kernel", "/bias", _keras_grid(7)),
        "norm": _KERAS_BATCHNORM[:2],
        "batchnorm": _KERAS_BATCHNORM,
        "unscaled": (("/beta", "params/{}/scale", ONES), *_KERAS_BATCHNORM[1:]),
        "variable": (("/variable", "params/{}", SAME),),
    },
}
"""What a layer of each kind consists of: a suffix, our path around the layer's own, and the change of layout.

One suffix may fill several leaves. "unscaled" is a BatchNorm that only shifts, "variable" a layer of one array."""
