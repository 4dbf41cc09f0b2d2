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
      fused: whether its window takes all channels at once where it expands them; where it does not, the block is that
        convolution alone (EfficientNet V2).
    """

    width: int
    hidden: int
    size: int
    stride: int
    squeeze: int
    activation: str
    fused: bool = False


class InvertedResidual(nn.Module):
    """Expands channels, convolves each alone, weighs them, and projects them, https://arxiv.org/abs/1801.04381."""

    spec: BlockSpec
    norm: Mapping[str, Any]
    squeeze_activation: str
    gate: str
    padding: str
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, width]."""
        spec = self.spec
        y = self._fused(x, train) if spec.fused else self._separate(x, train)
        if spec.stride > 1 or spec.width != x.shape[-1]:
            return y
        return x + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)

    def _separate(self, x: jax.Array, train: bool) -> jax.Array:
        spec = self.spec
        if spec.hidden != x.shape[-1]:
            x = self._conv(x, spec.hidden, 1, "expand", train, activated=True)
        x = self._conv(x, spec.hidden, spec.size, "depthwise", train, groups=spec.hidden, activated=True)
        if spec.squeeze:
            x = SqueezeExcite(spec.squeeze, self.squeeze_activation, self.gate, self.dtype, name="squeeze")(x)
        return self._conv(x, spec.width, 1, "project", train)

    def _fused(self, x: jax.Array, train: bool) -> jax.Array:
        spec = self.spec
        if spec.hidden == x.shape[-1]:
            return self._conv(x, spec.width, spec.size, "project", train, activated=True)
        x = self._conv(x, spec.hidden, spec.size, "expand", train, activated=True)
        return self._conv(x, spec.width, 1, "project", train)

    def _conv(
        self,
        x: jax.Array,
        features: int,
        size: int,
        name: str,
        train: bool,
        *,
        groups: int = 1,
        activated: bool = False,
    ) -> jax.Array:
        """Convolves at the stride of the block, or at 1 where the window is one pixel, and normalises."""
        stride = self.spec.stride if size > 1 else 1
        x = conv(features, size, stride, groups=groups, padding=self.padding, dtype=self.dtype, name=name)(x)
        x = BatchNorm(**self.norm, name=f"{name}_bn")(x, use_running_average=not train)
        return ACTIVATIONS[self.spec.activation](x) if activated else x


class InvertedResidualNet(GroupedModel):
    """A stem, inverted residual blocks and a last convolution; a family says which blocks.

    Attributes:
      stem_width: channels of the stem.
      last_width: channels of the last convolution.
      hidden: the width of a dense layer after the pooling; 0 for none.
      activation: of the stem and of what follows the blocks.
      squeeze_activation: between the two layers of squeeze-excite.
      gate: what ends it, one of `GATES`.
      tf_padding: windows at stride 2 are padded as TensorFlow does it: where the side is even, one pixel less before
        than after.
      hf_padding: the same at every side, as in the EfficientNet of transformers, but for the blocks `centred`.
      centred: the numbers of these blocks.
      momentum: the share that running statistics keep at each training step.
      unbiased: whether the running variance is the unbiased one, as in PyTorch.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = (
        "epsilon",
        "momentum",
        "unbiased",
        "tf_padding",
        "hf_padding",
        "centred",
    )

    num_classes: int
    image_size: int = 224
    stem_width: int = 32
    last_width: int = 1280
    hidden: int = 0
    activation: str = "relu6"
    squeeze_activation: str = "relu"
    gate: str = "sigmoid"
    tf_padding: bool = False
    hf_padding: bool = False
    centred: tuple[int, ...] = ()
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
            x = conv(self.stem_width, 3, 2, padding=self._padding(), dtype=self.dtype, name="stem_conv")(x)
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
            padding=self._padding(names.index(name)),
            drop_path=self.drop_path * names.index(name) / max(len(names) - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)

    def _padding(self, block: int = -1) -> str:
        if self.hf_padding and block not in self.centred:
            return "shifted"
        return "tensorflow" if self.tf_padding else "centred"


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: str = "centred",
    dtype: Any = jnp.float32,
    name: str,
) -> nn.Conv:
    """Makes a convolution without bias.

    Args:
      features: channels of what it returns.
      size: side of its window.
      stride: of its window.
      groups: of its channels.
      padding: "centred" is size // 2 on every side; "shifted" at stride 2 one pixel less before; "tensorflow" the one
        or the other, by the side of the image.
      dtype: what is computed in.
      name: of the layer.
    """
    before = size // 2 - (padding == "shifted" and stride > 1)
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding="SAME" if padding == "tensorflow" else ((before, size // 2),) * 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )
