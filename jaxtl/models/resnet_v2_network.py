"""ResNet v2 as a module, with pre-activation: that of Keras, and BiT; its family is resnet_v2."""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.conv import max_pool
from jaxtl.models.layers.residual_block import conv
from jaxtl.models.layers.standardized_conv import StandardizedConv


@dataclass(frozen=True)
class Layers:
    """What the normalisations and convolutions of a network are made of; see `ResNetV2`."""

    keras: bool
    norm_groups: int
    epsilon: float
    kernel_epsilon: float
    axis_name: str | None
    dtype: Any

    def norm(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        """Normalises and activates."""
        if self.keras:
            options = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype, "name": name}
            return BatchNorm(**options, momentum=0.99, unbiased=False, relu=True)(x, use_running_average=not train)
        # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large, as it is in later stages.
        options = {"epsilon": self.epsilon, "dtype": self.dtype, "use_fast_variance": False, "name": name}
        return nn.relu(nn.GroupNorm(self.norm_groups, **options)(x))

    def conv(self, x: jax.Array, features: int, size: int, stride: int, name: str) -> jax.Array:
        """Convolves, padded by size // 2 on every side."""
        if self.keras:
            # Where a normalisation follows at once, Keras has no bias.
            bias = name not in ("conv1", "conv2") or size == 7
            return conv(features, size, stride, bias=bias, dtype=self.dtype, name=name)(x)
        return StandardizedConv(features, size, stride, size // 2, self.kernel_epsilon, dtype=self.dtype, name=name)(x)


class Block(nn.Module):
    """A bottleneck whose normalisations and activations come before its convolutions."""

    features: int
    stride: int
    project: bool
    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, 4 * features]."""
        layers = self.layers
        y = layers.norm(x, train, "norm1")
        # A stride without a projection takes every second pixel: Keras' max pooling of size 1.
        shortcut = x[:, :: self.stride, :: self.stride]
        if self.project:
            shortcut = layers.conv(y, 4 * self.features, 1, self.stride, "downsample")
        y = layers.norm(layers.conv(y, self.features, 1, 1, "conv1"), train, "norm2")
        y = layers.norm(layers.conv(y, self.features, 3, self.stride, "conv2"), train, "norm3")
        y = layers.conv(y, 4 * self.features, 1, 1, "conv3")
        x = shortcut + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)
        return x


class ResNetV2(GroupedModel):
    """A pre-activation ResNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      stages: the number of residual blocks in each stage.
      width: channels of the first stage's 3 x 3 convolutions; each stage doubles them.
      keras: batch normalisation, plain convolutions, and the stride in the last block of a stage, as in Keras;
        otherwise group normalisation, weight standardisation and the stride in the first block, as in BiT.
      norm_groups: the number of groups of the group normalisation.
      kernel_epsilon: added to the variance of a kernel, where kernels are standardised.
      axis_name: the mapped axis over which batch statistics are taken, under pmap.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "norm_groups", "kernel_epsilon")

    num_classes: int
    stages: tuple[int, ...]
    image_size: int = 224
    width: int = 64
    keras: bool = False
    norm_groups: int = 32
    epsilon: float = 1e-5
    kernel_epsilon: float = 1e-10
    dropout: float = 0.0
    drop_path: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head; the final norm goes with the last block."""
        names = [f"layer{stage + 1}.{i}" for stage, count in enumerate(self.stages) for i in range(count)]
        blocks = [(name, name.replace(".", r"\.")) for name in names]
        blocks[-1] = (names[-1], f"{blocks[-1][1]}|norm")
        return (("stem", "conv1"), *blocks, ("head", "head"))

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "stem":
            x = self._layers().conv(x, self.width, 7, 2, "conv1")
            # Padded with zeros, not with -inf: nothing is activated before this pooling.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return max_pool(x, ((0, 0), (0, 0)), train)
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        return self._block(x, name, train)

    def _layers(self) -> Layers:
        return Layers(self.keras, self.norm_groups, self.epsilon, self.kernel_epsilon, self.axis_name, self.dtype)

    def _block(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        stage, index = (int(part) for part in name.removeprefix("layer").split("."))
        count = self.stages[stage - 1]
        before, total = sum(self.stages[: stage - 1]) + index, sum(self.stages)
        # Keras halves the map at the end of a stage, BiT at the start of the next one.
        strided = index == count - 1 and stage < len(self.stages) if self.keras else index == 0 and stage > 1
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            features=self.width * 2 ** (stage - 1),
            stride=2 if strided else 1,
            project=index == 0,
            layers=self._layers(),
            drop_path=self.drop_path * before / max(total - 1, 1),
            name=name,
        )(x, train)
        return self.pooled(self._layers().norm(x, train, "norm")) if before == total - 1 else x
