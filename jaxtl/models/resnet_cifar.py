"""The small ResNets for CIFAR of https://arxiv.org/abs/1512.03385 section 4.2, with parameter-free shortcuts."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.compress.structure import Units
from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.residual_block import check_inner, conv, inner_units
from jaxtl.models.resnet import count_blocks, inner_widths
from jaxtl.preprocessing import IMAGENET, PixelDefaults


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut that subsamples and pads channels instead of projecting."""

    features: int
    stride: int
    epsilon: float
    axis_name: str | None = None
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    inner: int = 0  # Channels between the two; 0 for as many as it returns.

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, features]."""
        norm = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype}
        y = conv(self.inner or self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(**norm, name="bn1")(y, use_running_average=not train))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(**norm, name="bn2")(y, use_running_average=not train)
        if x.shape != y.shape:
            missing = self.features - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        y = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3))(y, deterministic=not train)
        return nn.relu(x + y)


class ResNetCifar(GroupedModel):
    """A ResNet of depth 6n + 2 for images of about 32 x 32, with three stages of n blocks.

    Attributes:
      blocks: the number n of residual blocks in each stage.
      width: channels of the first stage; the second and third have 2 and 4 times as many.
      remat: whether training computes each block a second time instead of keeping what lies within it.
      inner: channels between the two convolutions of each block, where structured pruning left fewer than the stage
        has; () for as many.
    """

    num_classes: int
    blocks: int
    image_size: int = 32
    width: int = 16
    epsilon: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    inner: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_inner(self.inner, 3 * self.blocks)
        super().__post_init__()

    def removable(self) -> tuple[Units, ...]:
        """Gives the channels between the two convolutions of each block."""
        names = [name for name, _ in self.groups()[1:-1]]
        widths = self.inner or tuple(self.width * 2 ** (i // self.blocks) for i in range(len(names)))
        return tuple(inner_units(name, i, width) for i, (name, width) in enumerate(zip(names, widths, strict=True)))

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        blocks = tuple((f"layer{stage}.{i}", rf"layer{stage}\.{i}") for stage in (1, 2, 3) for i in range(self.blocks))
        return (("stem", "conv1|bn1"), *blocks, ("head", "head"))

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, 4 * width]."""
        norm = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype}
        if name == "stem":
            x = conv(self.width, 3, dtype=self.dtype, name="conv1")(x)
            return nn.relu(BatchNorm(**norm, name="bn1")(x, use_running_average=not train))
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        stage, index = (int(part) for part in name.removeprefix("layer").split("."))
        stride = 2 if stage > 1 and index == 0 else 1
        kind = nn.remat(Block, static_argnums=2) if self.remat else Block
        depth = (stage - 1) * self.blocks + index
        drop_path = self.drop_path * depth / max(3 * self.blocks - 1, 1)
        inner = self.inner[depth] if self.inner else 0
        x = kind(self.width * 2 ** (stage - 1), stride, **norm, drop_path=drop_path, inner=inner, name=name)(x, train)
        return self.pooled(x) if (stage, index) == (3, self.blocks - 1) else x


VARIANTS: dict[str, dict[str, Any]] = {
    f"resnet{depth}_cifar": {"blocks": (depth - 2) // 6} for depth in (20, 32, 44, 56, 110)
}

_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
PUBLISHED = {
    "resnet20_cifar": f"{_URL}resnet20-12fca82f.th",
    "resnet32_cifar": f"{_URL}resnet32-d509ac18.th",
    "resnet44_cifar": f"{_URL}resnet44-014dd654.th",
    "resnet56_cifar": f"{_URL}resnet56-4bfd9763.th",
    "resnet110_cifar": f"{_URL}resnet110-1d1ed7c2.th",
}

MODEL = ResNetCifar
IMAGE_SIZE = 32

ARCHITECTURES = (r"resnet(8|14|20|26|32|44|56|110|1202)",)

_AKAMASTER = (
    ("conv1", "conv1", "conv"),
    ("bn1", "bn1", "batchnorm"),
    ("layer{s}.{b}.conv{k}", "layer{s}.{b}/conv{k}", "conv"),
    ("layer{s}.{b}.bn{k}", "layer{s}.{b}/bn{k}", "batchnorm"),
    ("linear", "head", "dense"),
)

KEY_MAPPINGS = (
    KeyMapping(
        "cifar",
        "torch",
        _AKAMASTER,
        pixels=PixelDefaults(IMAGENET, "bicubic", 1.0),
        unused=(r".*\.num_batches_tracked",),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves."""
    blocks, width = count_blocks(shapes)[0], shapes["params/conv1/kernel"][-1]
    inner = inner_widths(shapes)
    whole = tuple(width * 2 ** (i // blocks) for i in range(3 * blocks))
    return {"blocks": blocks, "width": width, "inner": () if inner == whole else inner}
