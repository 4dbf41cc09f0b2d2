"""The convolution with square windows that families make of the form which the backend does fastest."""

from typing import Any

import flax.linen as nn

from jaxtl.models.layers.conv import convolve


def conv(
    features: int,
    size: int,
    stride: int = 1,
    padding: int | str = 0,
    groups: int = 1,
    *,
    bias: bool = True,
    dtype: Any,
    name: str,
) -> nn.Conv:
    """Makes a convolution.

    Args:
      features: channels of what it returns.
      size: side of its window.
      stride: of its window.
      padding: pixels on every side, or "SAME" for TensorFlow's.
      groups: of its channels.
      bias: whether it has one.
      dtype: what is computed in.
      name: of the layer.
    """
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=padding,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )
