"""GoogLeNet with BatchNorm, as in torchvision, https://arxiv.org/abs/1409.4842."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import Groups, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.key_mapping import COUNTERS, KeyMapping
from jaxtl.models.layers.batchnorm import norm_fields
from jaxtl.models.layers.conv_norm import ConvNorm, max_pool_3x3, rows
from jaxtl.models.layers.dense_grid import DenseGrid
from jaxtl.models.layers.pooling import average_to_grid, max_pool_2x2
from jaxtl.models.layers.windows import max_over_windows
from jaxtl.preprocessing import HALF, PixelDefaults

# Channels of the first branch, of the two convolutions of the second and third, and of the one after the pooling.
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches over the same maps, side by side."""

    channels: tuple[int, ...]
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, D]."""
        one, three_in, three, five_in, five, pooled = self.channels

        def conv(y: jax.Array, features: int, size: int, name: str) -> jax.Array:
            side = (size, size)
            return ConvNorm(features, side, 1, (size // 2, size // 2), self.norm, self.dtype, name=name)(y, train)

        largest = max_over_windows(x, (3, 3), (1, 1), ((1, 1), (1, 1)))
        branches = [
            conv(x, one, 1, "branch1"),
            conv(conv(x, three_in, 1, "branch2_0"), three, 3, "branch2_1"),
            # In the paper 5 x 5; torchvision's weights have 3 x 3.
            conv(conv(x, five_in, 1, "branch3_0"), five, 3, "branch3_1"),
            conv(largest, pooled, 1, "branch4"),
        ]
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(BatchNormModel, kw_only=True):
    """A GoogLeNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      aux: whether it has its two auxiliary heads.
      dropout: before the head; auxiliary heads drop 0.7 where it is not 0.
      remat: whether training computes each inception a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = (*BatchNormModel.unseen, "aux")
    auxiliary_field: ClassVar[str] = "aux"
    auxiliary_classifiers: ClassVar[str] = r"aux\d/fc2"

    num_classes: int
    image_size: int = 224
    aux: bool = True
    epsilon: float = 1e-3

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, each inception, auxiliary heads behind 4a and 4d, the head."""
        after = {"4a": "aux1", "4d": "aux2"} if self.aux else {}
        table = [("stem", r"conv\d")]
        for name in _INCEPTIONS:
            table.append((f"inception{name}", f"inception{name}"))
            if name in after:
                table.append((after[name], after[name]))
        return (*table, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/conv1/conv/kernel"

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 15

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; inceptions return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        norm = norm_fields(self)
        if name == "stem":
            x = ConvNorm(64, (7, 7), 2, (3, 3), norm, self.dtype, name="conv1")(x, train)
            x = max_pool_3x3(x, train, ceil=True)
            x = ConvNorm(64, (1, 1), 1, (0, 0), norm, self.dtype, name="conv2")(x, train)
            x = ConvNorm(192, (3, 3), 1, (1, 1), norm, self.dtype, name="conv3")(x, train)
            return max_pool_3x3(x, train, ceil=True)
        block = nn.remat(Inception, static_argnums=2) if self.remat else Inception
        x = block(_INCEPTIONS[name.removeprefix("inception")], norm, self.dtype, name=name)(x, train)
        if name == "inception3b":
            return max_pool_3x3(x, train, ceil=True)
        if name == "inception4e":
            odd = [(0, side % 2) for side in x.shape[1:3]]
            return max_pool_2x2(jnp.pad(x, ((0, 0), *odd, (0, 0)), constant_values=-jnp.inf))
        return self.pooled(x) if name == "inception5b" else x

    def run_auxiliary(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Gives the logits of an auxiliary head."""
        dropout = 0.7 if self.dropout else 0.0
        return Auxiliary(self.num_classes, norm_fields(self), dropout, self.dtype, name=name)(x, train)


class Auxiliary(nn.Module):
    """An auxiliary head: the maps averaged to 4 x 4, a convolution, and two dense layers."""

    num_classes: int
    norm: Mapping[str, Any]
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to logits [B, num_classes]."""
        x = ConvNorm(128, (1, 1), 1, (0, 0), self.norm, self.dtype, name="conv")(average_to_grid(x, 4), train)
        x = nn.relu(DenseGrid(1024, 4, dtype=self.dtype, name="fc1")(x))
        return classify(x, self.num_classes, train=train, dropout=self.dropout, name="fc2")


VARIANTS: dict[str, dict[str, Any]] = {"googlenet": {}}

PUBLISHED = {"googlenet": "https://download.pytorch.org/models/googlenet-1378be20.pth"}

BUILDERS = {"torchvision": {"googlenet": "googlenet"}}

MODEL = GoogLeNet
IMAGE_SIZE = 224

ARCHITECTURES = ("googlenet",)

_BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
_OURS = ("branch1", "branch2_0", "branch2_1", "branch3_0", "branch3_1", "branch4")
_TORCHVISION = (
    *rows(("conv1", "conv2", "conv3"), ("conv1", "conv2", "conv3")),
    *(
        row
        for name in _INCEPTIONS
        for row in rows([f"inception{name}.{b}" for b in _BRANCHES], [f"inception{name}/{b}" for b in _OURS])
    ),
    *rows(("aux{i}.conv",), ("aux{i}/conv",)),
    ("aux{i}.fc1", "aux{i}/fc1", "grid4"),
    ("aux{i}.fc2", "aux{i}/fc2", "dense"),
    ("fc", "head", "dense"),
)

KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        _TORCHVISION,
        # Its pretrained model turns ImageNet's normalisation into this one before anything else.
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
        unused=COUNTERS,
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    if shapes["params/inception5b/branch1/conv/kernel"][-1] != 384:
        raise ValueError("no GoogLeNet")
    return {"aux": "params/aux1/fc1/kernel" in shapes}


def torchvision_arguments(model: GoogLeNet) -> dict[str, Any]:
    """Gives what torchvision's function takes besides: an exported file leaves the auxiliary heads out."""
    del model
    return {"aux_logits": False}
