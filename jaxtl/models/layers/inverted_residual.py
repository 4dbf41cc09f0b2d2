"""The network of inverted residual blocks that MobileNet V2 and V3 and EfficientNet share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.layers.batchnorm import BatchNorm, norm_fields
from jaxtl.models.layers.conv import convolve
from jaxtl.models.layers.squeeze_excite import ACTIVATIONS, SqueezeExcite


@dataclass(frozen=True)
class BlockSpec:
    """The sizes of a block.

    Attributes:
      width: channels of what it returns.
      hidden: channels between; where they are those of the input, nothing is expanded.
      size: side of the window of its convolution.
      stride: of that convolution.
      squeeze: channels of its squeeze-excite; 0 for none.
      activation: one of `ACTIVATIONS`.
    """

    width: int
    hidden: int
    size: int
    stride: int
    squeeze: int
    activation: str


class InvertedResidual(nn.Module):
    """Expands channels, convolves each alone, weighs them, and projects them, https://arxiv.org/abs/1801.04381."""

    spec: BlockSpec
    norm: Mapping[str, Any]
    squeeze_activation: str
    gate: str
    tf_padding: bool
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, width]."""
        spec, activate = self.spec, ACTIVATIONS[self.spec.activation]

        def norm(name: str, y: jax.Array) -> jax.Array:
            return BatchNorm(**self.norm, name=name)(y, use_running_average=not train)

        y = x
        if spec.hidden != x.shape[-1]:
            y = activate(norm("expand_bn", conv(spec.hidden, 1, dtype=self.dtype, name="expand")(y)))
        y = conv(
            spec.hidden,
            spec.size,
            spec.stride,
            groups=spec.hidden,
            tf_padding=self.tf_padding,
            dtype=self.dtype,
            name="depthwise",
        )(y)
        y = activate(norm("depthwise_bn", y))
        if spec.squeeze:
            y = SqueezeExcite(spec.squeeze, self.squeeze_activation, self.gate, self.dtype, name="squeeze")(y)
        y = norm("project_bn", conv(spec.width, 1, dtype=self.dtype, name="project")(y))
        if spec.stride > 1 or spec.width != x.shape[-1]:
            return y
        return x + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)


class InvertedResidualNet(GroupedModel):
    """A stem, inverted residual blocks and a last convolution; a family says which blocks.

    Attributes:
      stem_width: channels of the stem.
      last_width: channels of the last convolution.
      hidden: the width of a dense layer after the pooling; 0 for none.
      activation: of the stem and of what follows the blocks.
      squeeze_activation: between the two layers of squeeze-excite.
      gate: what ends it, one of `GATES`.
      tf_padding: windows at stride 2 are padded as TensorFlow does it.
      momentum: the share that running statistics keep at each training step.
      unbiased: whether the running variance is the unbiased one, as in PyTorch.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "momentum", "unbiased", "tf_padding")

    num_classes: int
    image_size: int = 224
    stem_width: int = 32
    last_width: int = 1280
    hidden: int = 0
    activation: str = "relu6"
    squeeze_activation: str = "relu"
    gate: str = "sigmoid"
    tf_padding: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Gives the blocks by name, "stage1.0" and so on, in their order."""
        raise NotImplementedError

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, what follows them, the head."""
        blocks = tuple((name, name.replace(".", r"\.")) for name in self.blocks())
        dense = (("fc", "fc"),) if self.hidden and not self.head_pool else ()
        return (("stem", "stem_.*"), *blocks, ("last", "last_.*"), *dense, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/stem_conv/kernel"

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; the last convolution returns pooled features [B, D]."""
        activate = ACTIVATIONS[self.activation]
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "fc":
            return activate(nn.Dense(self.hidden, dtype=self.dtype, name="fc")(x))
        if name == "stem":
            x = conv(self.stem_width, 3, 2, tf_padding=self.tf_padding, dtype=self.dtype, name="stem_conv")(x)
            return activate(BatchNorm(**norm_fields(self), name="stem_bn")(x, use_running_average=not train))
        if name == "last":
            x = conv(self.last_width, 1, dtype=self.dtype, name="last_conv")(x)
            x = activate(BatchNorm(**norm_fields(self), name="last_bn")(x, use_running_average=not train))
            return self.pooled(x)
        names = list(self.blocks())
        return (nn.remat(InvertedResidual, static_argnums=2) if self.remat else InvertedResidual)(
            spec=self.blocks()[name],
            norm=norm_fields(self),
            squeeze_activation=self.squeeze_activation,
            gate=self.gate,
            tf_padding=self.tf_padding,
            drop_path=self.drop_path * names.index(name) / max(len(names) - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    tf_padding: bool = False,
    dtype: Any = jnp.float32,
    name: str,
) -> nn.Conv:
    """Makes a convolution without bias, padded by size // 2 on every side, or as TensorFlow pads "SAME"."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding="SAME" if tf_padding else size // 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )
