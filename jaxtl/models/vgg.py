"""VGG, https://arxiv.org/abs/1409.1556: blocks of 3 x 3 convolutions between poolings, then two wide dense layers."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.models.base import Groups, classify
from jaxtl.models.batchnorm_model import BatchNormModel
from jaxtl.models.key_mapping import COUNTERS, KeyMapping, Rows, refuse_timm_changes
from jaxtl.models.layers.batchnorm import BatchNorm, norm_fields
from jaxtl.models.layers.dense_grid import DenseGrid
from jaxtl.models.layers.pooling import max_pool_2x2
from jaxtl.models.layers.residual_block import conv
from jaxtl.preprocessing import CAFFE, IMAGENET, PixelDefaults


class VGG(BatchNormModel):
    """A VGG from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      convs: the number of convolutions in each block; a pooling over 2 x 2 ends each.
      width: channels of the first block; each doubles them, up to eight times as many.
      hidden: the width of the two dense layers.
      batch_norm: whether BatchNorm follows each convolution.
      average_first: where images are of another size, the grid before the first dense layer is averaged to 7 x 7, as in
        torchvision; else that layer moves over the grid and what it gives is averaged, as in timm.
      dropout: the rate after each dense layer.
    """

    unseen: ClassVar[tuple[str, ...]] = (*BatchNormModel.unseen, "average_first")

    num_classes: int
    convs: tuple[int, ...]
    image_size: int = 224
    width: int = 64
    hidden: int = 4096
    batch_norm: bool = False
    average_first: bool = True

    def groups(self) -> Groups:
        """Gives the groups from input to head: one for each block, the two dense layers, the head."""
        blocks = tuple((f"block{i}", f"block{i}") for i in range(1, len(self.convs) + 1))
        dense = () if self.head_pool else (("fc1", "fc1"), ("fc2", "fc2"))
        return (*blocks, *dense, ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/block1/conv1/kernel"

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 2 ** len(self.convs)

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last dense layer pooled features [B, hidden]."""
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "fc1":
            return nn.relu(DenseGrid(self.hidden, 7, self.average_first, self.dtype, name="fc1")(x))
        if name == "fc2":
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="fc2")(x))
            return x if x.ndim == 2 else x.mean(axis=(1, 2))
        number = int(name.removeprefix("block"))
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            features=self.width * min(2 ** (number - 1), 8),
            convs=self.convs[number - 1],
            norm=norm_fields(self) if self.batch_norm else None,
            dtype=self.dtype,
            name=name,
        )(x, train)
        return self.pooled(x) if self.head_pool and number == len(self.convs) else x


class Block(nn.Module):
    """Some 3 x 3 convolutions, with BatchNorm where `norm` gives its fields, and a pooling over 2 x 2."""

    features: int
    convs: int
    norm: Mapping[str, Any] | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/2, W/2, features]."""
        for i in range(1, self.convs + 1):
            x = conv(self.features, 3, bias=True, dtype=self.dtype, name=f"conv{i}")(x)
            if self.norm is None:
                x = nn.relu(x)
            else:
                x = BatchNorm(**self.norm, relu=True, name=f"bn{i}")(x, use_running_average=not train)
        return max_pool_2x2(x)


_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"vgg{depth}": {"convs": convs} for depth, convs in _CONVS.items()},
    **{f"vgg{depth}_bn": {"convs": convs, "batch_norm": True} for depth, convs in _CONVS.items()},
}

PUBLISHED = {name: f"hf:timm/{name}.tv_in1k" for name in VARIANTS}

BUILDERS = {"torchvision": {name: name for name in VARIANTS}}

MODEL = VGG
IMAGE_SIZE = 224

ARCHITECTURES = (r"vgg(11|13|16|19)(_bn)?",)


def _features(convs: tuple[int, ...], batch_norm: bool) -> Rows:
    """Returns the rows of the convolutions, which torchvision and timm number with all that stands between them."""
    rows: list[tuple[str, str, str]] = []
    place = 0
    for block, count in enumerate(convs, start=1):
        for i in range(1, count + 1):
            rows.append((f"features.{place}", f"block{block}/conv{i}", "conv"))
            if batch_norm:
                rows.append((f"features.{place + 1}", f"block{block}/bn{i}", "batchnorm"))
            place += 3 if batch_norm else 2
        place += 1  # The pooling.
    return tuple(rows)


_TORCHVISION = (("classifier.0", "fc1", "grid7"), ("classifier.3", "fc2", "dense"), ("classifier.6", "head", "dense"))
_TIMM = (("pre_logits.fc1", "fc1", "conv"), ("pre_logits.fc2", "fc2", "pixel"), ("head.fc", "head", "dense"))
_KERAS = (
    ("block1_conv1", "block1/conv1", "bgr"),
    ("block{s}_conv{i}", "block{s}/conv{i}", "conv"),
    ("fc1", "fc1", "grid7"),
    ("fc2", "fc2", "dense"),
    ("predictions", "head", "dense"),
)

_PIXELS = PixelDefaults(IMAGENET, "bilinear", 224 / 256)

KEY_MAPPINGS = (
    *(
        KeyMapping(
            name,
            "torch",
            (*_features(fields["convs"], fields.get("batch_norm", False)), *rows),
            fields=implied,
            pixels=_PIXELS,
            unused=COUNTERS,
        )
        for fields in VARIANTS.values()
        for name, rows, implied in (("torchvision", _TORCHVISION, {}), ("timm", _TIMM, {"average_first": False}))
    ),
    KeyMapping(
        "keras",
        "keras",
        _KERAS,
        pixels=PixelDefaults(CAFFE, "bilinear", 224 / 256),
        ending=("max_pooling2d",),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    found = [re.fullmatch(r"params/block(\d+)/conv\d+/kernel", path) for path in shapes]
    blocks = [int(match[1]) for match in found if match]
    return {
        "convs": tuple(blocks.count(block) for block in sorted(set(blocks))),
        "width": shapes["params/block1/conv1/kernel"][-1],
        "batch_norm": "params/block1/bn1/scale" in shapes,
        # Without the dense layers a head reads the mean over the last maps.
        **({"hidden": shapes[last][-1]} if (last := "params/fc2/kernel") in shapes else {"head_pool": "avg"}),
    }


def from_timm(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the fields out of the arguments of timm's create_model: no one that changes the function is supported.

    Raises:
      ValueError: there is such an argument; it names it and its value.
    """
    refuse_timm_changes(arguments)
    return {}


def as_torchvision(model: VGG) -> VGG:
    """Gives the model that computes the same as torchvision does: at the usual size there is nothing to average."""
    return model.clone(average_first=True) if model.image_size == IMAGE_SIZE else model


def to_timm(model: VGG) -> tuple[str, dict[str, Any]]:
    """Writes the architecture by which timm's create_model makes the model.

    Raises:
      UserError: timm has no VGG of these sizes, or computes another function at its image size.
    """
    if model.average_first and model.image_size != IMAGE_SIZE:
        raise UserError(
            f"timm's VGG agrees with this one for images of {IMAGE_SIZE} pixels only, and the model sees "
            f"{model.image_size}."
        )
    for name, fields in VARIANTS.items():
        sizes = {**fields, "width": 64, "hidden": 4096, "epsilon": 1e-5}
        if all(getattr(model, key) == value for key, value in sizes.items()):
            return name, {}
    raise UserError(f"timm has no such VGG; it has {', '.join(VARIANTS)}.")
