"""The residual network as a module, https://arxiv.org/abs/1512.03385, with the changes that its families have."""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.compress.structure import Cut, Units
from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.conv import convolve, max_pool
from jaxtl.models.layers.squeeze_excite import SqueezeExcite, divisible
from jaxtl.models.layers.windows import mean_over_windows


def conv(
    features: int, size: int, stride: int = 1, *, groups: int = 1, bias: bool = False, dtype: Any, name: str
) -> nn.Conv:
    """Makes a `size` x `size` convolution with PyTorch's padding of size // 2 on every side, at any stride."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        # "SAME" would pad the other way round at stride 2.
        padding=size // 2,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )


def check_inner(inner: tuple[int, ...], blocks: int) -> None:
    """Raises a ValueError unless there is a width above 0 for each block, or none at all."""
    if inner and (len(inner) != blocks or min(inner) < 1):
        raise ValueError(f"inner {inner} is not one number above 0 for each of {blocks} blocks")


def inner_units(block: str, index: int, width: int, *, between: tuple[int, int] = (1, 2), bias: bool = False) -> Units:
    """Gives the channels between two convolutions of a block as units that may go.

    A channel counts as the product of what its BatchNorm scales it by and of the kernel that reads it: how large the
    kernel is that makes it, the norm takes away.
    """
    name, (before, after) = f"params/{block}", between
    made = [Cut(f"{name}/conv{before}/kernel", 3), *[Cut(f"{name}/conv{before}/bias", 0)] * bias]
    statistics = [Cut(f"batch_stats/{block}/bn{before}/{key}", 0) for key in ("mean", "var")]
    weighed = (Cut(f"{name}/bn{before}/scale", 0), Cut(f"{name}/conv{after}/kernel", 2))
    rest = (*made, Cut(f"{name}/bn{before}/bias", 0), *statistics)
    return Units(f"{block}/conv{before}", "inner", index, width, weighed, rest)


class Block(nn.Module):
    """A residual block, basic (two 3 x 3 convolutions) or bottleneck (1 x 1, 3 x 3, 1 x 1 to four times as wide).

    Attributes:
      inner: channels between the convolutions.
      cardinality: how many groups its 3 x 3 convolution has.
      squeeze_excite: whether channels are weighed at the end of the branch.
    """

    features: int
    inner: int
    cardinality: int
    squeeze_excite: bool
    stride: int
    bottleneck: bool
    norm: Any
    conv: Any
    stride_first: bool
    average_shortcut: bool
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, features * (4 if bottleneck else 1)]."""
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        widths = (self.inner, self.inner, 4 * self.features) if self.bottleneck else (self.inner, self.features)
        strided = 0 if self.stride_first or not self.bottleneck else 1
        y = x
        for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            groups = self.cardinality if size == 3 else 1
            y = self.conv(width, size, self.stride if i == strided else 1, groups=groups, name=f"conv{i + 1}")(y)
            # A zero last scale makes each block start as the identity (https://arxiv.org/abs/1706.02677).
            final = i == len(sizes) - 1
            init = nn.initializers.zeros if final else nn.initializers.ones
            y = self.norm(scale_init=init, relu=not final, name=f"bn{i + 1}")(y, use_running_average=not train)
        if self.squeeze_excite:
            y = SqueezeExcite(divisible(y.shape[-1] / 16), "relu", "sigmoid", y.dtype, name="se")(y)
        y = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)
        return nn.relu(self._shortcut(x, y.shape[-1], train) + y)

    def _shortcut(self, x: jax.Array, width: int, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == width:
            return x
        stride = self.stride
        if self.average_shortcut:
            if stride > 1:
                pad = [(0, -side % stride) for side in x.shape[1:3]]
                window = (stride, stride)
                x = mean_over_windows(x, window, window, pad, counts_padding=False)
            stride = 1
        x = self.conv(width, 1, stride, name="downsample_conv")(x)
        return self.norm(name="downsample_bn")(x, use_running_average=not train)


class ResNet(GroupedModel):
    """A ResNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      stages: the number of residual blocks in each stage.
      bottleneck: whether the blocks are bottlenecks; basic blocks otherwise.
      width: channels of the first stage's 3 x 3 convolutions; each stage doubles them.
      deep_stem: three 3 x 3 convolutions instead of one 7 x 7 (the "D" of https://arxiv.org/abs/1812.01187).
      average_shortcut: average pooling before the shortcut's projection, also of "D".
      stride_first: stride on the first 1 x 1 convolution, as in the original and in Keras.
      conv_bias: whether convolutions have a bias, as in Keras.
      cardinality: the groups of the 3 x 3 convolutions (ResNeXt, https://arxiv.org/abs/1611.05431).
      base_width: channels of each of these groups in the first stage, where `width` is 64; twice 64 in wide ones
        (https://arxiv.org/abs/1605.07146).
      squeeze_excite: whether blocks weigh their channels (https://arxiv.org/abs/1709.01507).
      momentum: the share that running statistics keep at each training step.
      unbiased: whether the running variance is the unbiased one, as in PyTorch.
      axis_name: the mapped axis over which batch statistics are taken, under pmap.
      remat: whether training computes each block a second time instead of keeping what lies within it.
      inner: channels between the convolutions of each block, where structured pruning left fewer; () for as many as the
        other fields say.
    """

    unseen: ClassVar[tuple[str, ...]] = (
        "epsilon",
        "momentum",
        "unbiased",
        "stride_first",
        "average_shortcut",
        "conv_bias",
    )

    num_classes: int
    stages: tuple[int, ...]
    bottleneck: bool = True
    image_size: int = 224
    width: int = 64
    deep_stem: bool = False
    average_shortcut: bool = False
    stride_first: bool = False
    conv_bias: bool = False
    cardinality: int = 1
    base_width: int = 64
    squeeze_excite: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    inner: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_inner(self.inner, sum(self.stages))
        super().__post_init__()

    def removable(self) -> tuple[Units, ...]:
        """Gives the channels between the convolutions of each block; none where they come in groups.

        Of a bottleneck the two inner convolutions get as many, each those that count most in it.
        """
        if self.cardinality > 1:
            return ()
        found = []
        for index, (name, _) in enumerate(self.groups()[1:-1]):
            pairs = ((1, 2), (2, 3)) if self.bottleneck else ((1, 2),)
            width = self._inner(index, self._features(int(name.removeprefix("layer").split(".")[0])))
            found += [inner_units(name, index, width, between=pair, bias=self.conv_bias) for pair in pairs]
        return tuple(found)

    def _features(self, stage: int) -> int:
        return self.width * 2 ** (stage - 1)

    def _inner(self, index: int, features: int) -> int:
        """The channels between the convolutions of a block, counted from 0."""
        if self.inner:
            return self.inner[index]
        return features * self.base_width // 64 * self.cardinality if self.bottleneck else features

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        blocks = tuple(
            (f"layer{stage + 1}.{i}", rf"layer{stage + 1}\.{i}")
            for stage, count in enumerate(self.stages)
            for i in range(count)
        )
        return (("stem", r"conv1(?:_\d)?|bn1(?:_\d)?"), *blocks, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/conv1_0/kernel" if self.deep_stem else "params/conv1/kernel"

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "stem":
            return self._stem(x, train)
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        return self._block(x, name, train)

    def _norm(self) -> partial[BatchNorm]:
        return partial(
            BatchNorm,
            epsilon=self.epsilon,
            momentum=self.momentum,
            unbiased=self.unbiased,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.deep_stem:
            # Half as wide until the last one, at the full rate after the first.
            for i, (width, stride) in enumerate([(self.width // 2, 2), (self.width // 2, 1), (self.width, 1)]):
                x = conv(width, 3, stride, bias=self.conv_bias, dtype=self.dtype, name=f"conv1_{i}")(x)
                x = self._norm()(relu=True, name=f"bn1_{i}")(x, use_running_average=not train)
        else:
            x = conv(self.width, 7, 2, bias=self.conv_bias, dtype=self.dtype, name="conv1")(x)
            x = self._norm()(relu=True, name="bn1")(x, use_running_average=not train)
        return max_pool(x, ((1, 1), (1, 1)), train)

    def _block(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        stage, index = (int(part) for part in name.removeprefix("layer").split("."))
        before = sum(self.stages[: stage - 1]) + index
        features = self._features(stage)
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            features=features,
            inner=self._inner(before, features),
            cardinality=self.cardinality,
            squeeze_excite=self.squeeze_excite,
            stride=2 if stage > 1 and index == 0 else 1,
            bottleneck=self.bottleneck,
            norm=self._norm(),
            conv=partial(conv, bias=self.conv_bias, dtype=self.dtype),
            stride_first=self.stride_first,
            average_shortcut=self.average_shortcut,
            drop_path=self.drop_path * before / max(sum(self.stages) - 1, 1),
            name=name,
        )(x, train)
        return self.pooled(x) if before == sum(self.stages) - 1 else x
