"""LeNet-5, https://doi.org/10.1109/5.726791, as tutorials teach it: ReLU and max pooling, for images of 32 x 32."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.layers.dense_grid import DenseGrid
from jaxtl.models.layers.pooling import max_pool_2x2


class LeNet(GroupedModel):
    """A LeNet-5 from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      original: hyperbolic tangents and average pooling, as in the paper, in place of ReLU and max pooling.
    """

    unseen: ClassVar[tuple[str, ...]] = ("original",)

    num_classes: int
    image_size: int = 32
    original: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head: two convolutions, two dense layers, the head."""
        dense = () if self.head_pool else ("fc1", "fc2")
        return tuple((name, name) for name in ("conv1", "conv2", *dense, "head"))

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 16

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; convolutions return maps [B, h, w, c], dense layers features [B, D]."""
        activate = nn.tanh if self.original else nn.relu
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "fc1":
            return activate(DenseGrid(120, 5, dtype=self.dtype, name=name)(x))
        if name == "fc2":
            return activate(nn.Dense(84, dtype=self.dtype, name=name)(x))
        features = {"conv1": 6, "conv2": 16}[name]
        x = activate(nn.Conv(features, (5, 5), padding="VALID", dtype=self.dtype, name=name)(x))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2)) if self.original else max_pool_2x2(x)
        return self.pooled(x) if self.head_pool and name == "conv2" else x


VARIANTS: dict[str, dict[str, Any]] = {"lenet5": {}}

MODEL = LeNet
IMAGE_SIZE = 32

ARCHITECTURES = (r"lenet_?5?",)

# Nobody publishes weights; these are the names of the tutorial that most networks of this kind are copied from.
_TORCH = (
    ("conv{i}", "conv{i}", "conv"),
    ("fc1", "fc1", "grid5"),
    ("fc2", "fc2", "dense"),
    ("fc3", "head", "dense"),
)

KEY_MAPPINGS = (KeyMapping("torch", "torch", _TORCH),)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sees that the shapes are those of the one LeNet-5; there is nothing to read off them."""
    if shapes["params/fc1/kernel"] != (5, 5, 16, 120) or shapes["params/fc2/kernel"] != (120, 84):
        raise ValueError("no LeNet-5")
    return {}
