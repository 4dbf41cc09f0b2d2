"""The hybrids of https://arxiv.org/abs/2010.11929: a ViT whose patches are the pixels of a ResNet's feature map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import UserError
from jaxtl.models import vit
from jaxtl.models.base import Groups
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.layers.conv import max_pool
from jaxtl.models.layers.standardized_conv import StandardizedConv
from jaxtl.models.resnet import count_blocks
from jaxtl.models.transformer import ViT
from jaxtl.models.vit import B, L, S, sizes
from jaxtl.preprocessing import HALF, PixelDefaults


class Unit(nn.Module):
    """A bottleneck with group normalisation, weight standardisation and TensorFlow's padding."""

    features: int
    stride: int
    timm: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, 4 * features]."""
        shortcut = x
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            shortcut = self._layer(x, 4 * self.features, 1, self.stride, "downsample_conv", "downsample_norm")
        x = nn.relu(self._layer(x, self.features, 1, 1, "conv1", "norm1"))
        x = nn.relu(self._layer(x, self.features, 3, self.stride, "conv2", "norm2"))
        return nn.relu(shortcut + self._layer(x, 4 * self.features, 1, 1, "conv3", "norm3"))

    def _layer(self, x: jax.Array, features: int, size: int, stride: int, conv: str, norm: str) -> jax.Array:
        layers = NormalisedConv(features, size, stride, self.timm, self.dtype)
        return layers.run(x, conv, norm)


@dataclass(frozen=True)
class NormalisedConv:
    """A convolution with a standardised kernel and a normalisation in 32 groups; see `HybridViT` for `timm`."""

    features: int
    size: int
    stride: int
    timm: bool
    dtype: Any

    def run(self, x: jax.Array, conv: str, norm: str) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, features], in layers of these names."""
        x = StandardizedConv(
            self.features,
            self.size,
            self.stride,
            "SAME",
            epsilon=1e-8 if self.timm else 1e-5,
            epsilon_on_deviation=not self.timm,
            dtype=self.dtype,
            name=conv,
        )(x)
        # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
        options = {"epsilon": 1e-5 if self.timm else 1e-6, "dtype": self.dtype, "use_fast_variance": False}
        return nn.GroupNorm(num_groups=32, **options, name=norm)(x)


class HybridViT(ViT):
    """A `ViT` on the feature map of a ResNet; `patch` counts the map's pixels.

    Attributes:
      stages: the number of residual blocks in each stage; the map is 2 ** (len(stages) + 1) times smaller than the
        image.
      stem_width: channels after the first convolution.
      timm: whether the ResNet has timm's epsilons: 1e-8 beside the variance of a kernel and 1e-5 in its
        normalisations, in place of Google's 1e-5 beside its deviation and 1e-6.
    """

    unseen: ClassVar[tuple[str, ...]] = (*ViT.unseen, "timm")

    stages: tuple[int, ...] = ()
    stem_width: int = 64
    timm: bool = False

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem and blocks of the ResNet before those of the transformer."""
        (_, embed), *others = super().groups()
        units = [f"layer{stage + 1}.{i}" for stage, count in enumerate(self.stages) for i in range(count)]
        backbone = [("stem", "conv1|norm1"), *((name, name.replace(".", r"\.")) for name in units)]
        return (*backbone, ("embed", embed), *others)

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/conv1/kernel"

    @property
    def grid(self) -> int:
        """The number of patches along each side."""
        return math.ceil(self.image_size / (2 << len(self.stages))) // self.patch

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return (self.patch - 1) * (2 << len(self.stages)) + 1

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group: of the ResNet, on maps [B, h, w, c], or of the transformer."""
        if name == "stem":
            self._check(x)
            x = nn.relu(NormalisedConv(self.stem_width, 7, 2, self.timm, self.dtype).run(x, "conv1", "norm1"))
            return max_pool(x, "SAME", train)
        if name.startswith("layer"):
            stage, index = (int(part) for part in name.removeprefix("layer").split("."))
            stride = 2 if stage > 1 and index == 0 else 1
            return Unit(self.stem_width * 2 ** (stage - 1), stride, self.timm, self.dtype, name=name)(x)
        if name == "embed":
            return self._embed(x, train)
        return super().run_group(x, name, train)


VARIANTS: dict[str, dict[str, Any]] = {
    "vit_r26_s32": {**sizes(1, *S), "stages": (2, 2, 2, 2)},
    "vit_r50_b16": {**sizes(1, *B), "stages": (3, 4, 9)},
    "vit_r50_l32": {**sizes(1, *L), "stages": (3, 4, 6, 3)},
}

MODEL = HybridViT
IMAGE_SIZE = 224

PUBLISHED = {
    "vit_r26_s32": "hf:timm/vit_small_r26_s32_224.augreg_in21k_ft_in1k",
    "vit_r50_b16": "hf:timm/vit_base_r50_s16_384.orig_in21k_ft_in1k",
    "vit_r50_l32": "hf:timm/vit_large_r50_s32_224.augreg_in21k_ft_in1k",
}

ARCHITECTURES = (r"vit_(small|base)_r26_s32_(224|384)(_in21k)?", r"vit_(base_r50_s16|large_r50_s32)_(224|384)(_in21k)?")

_UNIT = "block{s}/unit{b+1}/"
_GOOGLE = (
    *vit.GOOGLE,
    ("conv_root", "conv1", "conv"),
    ("gn_root", "norm1", "norm"),
    (_UNIT + "conv{k}", "layer{s}.{b}/conv{k}", "conv"),
    (_UNIT + "gn{k}", "layer{s}.{b}/norm{k}", "norm"),
    (_UNIT + "conv_proj", "layer{s}.{b}/downsample_conv", "conv"),
    (_UNIT + "gn_proj", "layer{s}.{b}/downsample_norm", "norm"),
)

_STAGE = "patch_embed.backbone.stages.{s}.blocks.{b}."
_TIMM = (
    *vit.TIMM,
    ("patch_embed.backbone.stem.conv", "conv1", "conv"),
    ("patch_embed.backbone.stem.norm", "norm1", "norm"),
    (_STAGE + "conv{k}", "layer{s+1}.{b}/conv{k}", "conv"),
    (_STAGE + "norm{k}", "layer{s+1}.{b}/norm{k}", "norm"),
    (_STAGE + "downsample.conv", "layer{s+1}.{b}/downsample_conv", "conv"),
    (_STAGE + "downsample.norm", "layer{s+1}.{b}/downsample_norm", "norm"),
)

KEY_MAPPINGS = (
    KeyMapping(
        "timm",
        "torch",
        _TIMM,
        fields={"epsilon": 1e-6, "timm": True},
        pixels=PixelDefaults(HALF, "bicubic", 0.9),
    ),
    KeyMapping(
        "google",
        "flax",
        _GOOGLE,
        prefixes=("", "opt/target/"),
        fields={"epsilon": 1e-6, "gelu": "tanh"},
        pixels=PixelDefaults(HALF, "bilinear", 224 / 256),
    ),
)


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads the fields of the module off the shapes of its leaves, as far as shapes tell them."""
    fields = vit.infer(shapes)
    stages = count_blocks(shapes)
    shrink = 2 ** (len(stages) + 1)
    return {
        **fields,
        "image_size": fields["image_size"] * shrink,
        "stages": stages,
        "stem_width": shapes["params/conv1/kernel"][-1],
    }


from_timm = vit.from_timm


def to_timm(model: HybridViT) -> tuple[str, dict[str, Any]] | None:
    """Writes the architecture and the arguments by which timm's create_model makes the model.

    Raises:
      UserError: timm has no hybrid with this ResNet, or other epsilons in it.
    """
    architectures = {
        (2, 2, 2, 2): "vit_small_r26_s32_224",
        (3, 4, 9): "vit_base_r50_s16_224",
        (3, 4, 6, 3): "vit_large_r50_s32_224",
    }
    if model.stages not in architectures or model.stem_width != 64:
        sizes = ", ".join(map(str, architectures))
        raise UserError(f"timm's hybrids have ResNets of {sizes} blocks, 64 channels wide.")
    if not model.timm:
        raise UserError("timm's hybrids have other epsilons in their ResNets than Google's, of which this model is.")
    made = vit.to_timm(model)
    return made and (architectures[model.stages], made[1])
