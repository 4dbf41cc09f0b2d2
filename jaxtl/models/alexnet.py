"""AlexNet as in torchvision, https://arxiv.org/abs/1404.5997: five convolutions, then two wide dense layers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.convolution import conv
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.layers.conv import max_pool
from jaxtl.models.layers.dense_grid import DenseGrid
from jaxtl.preprocessing import IMAGENET, PixelDefaults

# Of each convolution: its width, the side of its window, its stride and padding, and whether a pooling follows.
_LAYERS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(GroupedModel):
    """An AlexNet from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      width: channels of the first convolution; the others have 3, 6, 4 and 4 times as many.
      hidden: the width of the two dense layers; the grid before them is averaged to 6 x 6.
      dropout: the rate before each dense layer.
    """

    unseen: ClassVar[tuple[str, ...]] = ()

    num_classes: int
    image_size: int = 224
    width: int = 64
    hidden: int = 4096
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head: each convolution, the two dense layers, the head."""
        dense = () if self.head_pool else ("fc1", "fc2")
        names = (*(f"conv{i}" for i in range(1, 6)), *dense, "head")
        return tuple((name, name) for name in names)

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 63

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; convolutions return maps [B, h, w, c], dense layers features [B, hidden]."""
        if name == "head":
            return classify(x, self.num_classes, train=train)
        if name in ("fc1", "fc2"):
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            layer = DenseGrid(self.hidden, 6, dtype=self.dtype, name=name) if name == "fc1" else None
            return nn.relu((layer or nn.Dense(self.hidden, dtype=self.dtype, name=name))(x))
        features, side, stride, pad, pooled = _LAYERS[int(name.removeprefix("conv")) - 1]
        x = conv(features * self.width // 64, side, stride, pad, dtype=self.dtype, name=name)(x)
        x = nn.relu(x)
        x = max_pool(x, ((0, 0), (0, 0)), train) if pooled else x
        return self.pooled(x) if self.head_pool and name == "conv5" else x


VARIANTS: dict[str, dict[str, Any]] = {"alexnet": {}}

PUBLISHED = {"alexnet": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"}

BUILDERS = {"torchvision": {"alexnet": "alexnet"}}

MODEL = AlexNet
IMAGE_SIZE = 224

ARCHITECTURES = ("alexnet",)

_TORCHVISION = (
    *((f"features.{place}", f"conv{i}", "conv") for i, place in enumerate((0, 3, 6, 8, 10), start=1)),
    ("classifier.1", "fc1", "grid6"),
    ("classifier.4", "fc2", "dense"),
    ("classifier.6", "head", "dense"),
)

KEY_MAPPINGS = (
    KeyMapping("torchvision", "torch", _TORCHVISION, pixels=PixelDefaults(IMAGENET, "bilinear", 224 / 256)),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves."""
    return {"width": shapes["params/conv1/kernel"][-1], "hidden": shapes["params/fc2/kernel"][-1]}
