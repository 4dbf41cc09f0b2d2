"""ConvNeXt as a module: a convolutional network built from the parts of a Transformer; its family is convnext."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, Groups, classify
from jaxtl.models.convolution import conv
from jaxtl.models.layers.layernorm import LayerNorm
from jaxtl.models.layers.transformer_block import DropPath, Mlp


class Block(nn.Module):
    """A 7 x 7 convolution of each channel, LayerNorm and an MLP on a residual branch; before it, perhaps half the size.

    Attributes:
      width: channels of what is returned.
      halve: whether LayerNorm and a 2 x 2 convolution at stride 2 come first.
    """

    width: int
    halve: bool
    gelu: str
    epsilon: float
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width], or half the size."""
        if self.halve:
            x = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="downsample_norm")(x)
            x = conv(self.width, 2, 2, dtype=self.dtype, name="downsample_conv")(x)
        y = conv(self.width, 7, padding=3, groups=self.width, dtype=self.dtype, name="conv")(x)
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(y)
        y = Mlp(4 * self.width, self.gelu, 0.0, self.dtype, name="mlp")(y, train)
        y = (
            y
            * self.param("layer_scale", nn.initializers.constant(1e-6), (self.width,)).astype(y.dtype)[None, None, None]
        )
        shape = y.shape
        y = DropPath(self.drop_path)(y.reshape(shape[0], -1, shape[-1]), deterministic=not train)
        return x + y.reshape(shape)


class ConvNeXt(GroupedModel):
    """A ConvNeXt from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      blocks: the number of blocks in each stage.
      width: channels of the first stage; each doubles them.
      gelu: "exact" or "tanh".
      head_epsilon: of the LayerNorm over the pooled features; transformers has another there.
      remat: whether training computes each block a second time instead of keeping what lies within it.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "head_epsilon", "gelu")

    num_classes: int
    blocks: tuple[int, ...]
    image_size: int = 224
    width: int = 96
    gelu: str = "exact"
    epsilon: float = 1e-6
    head_epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head: the stem, one group for each block, the head."""
        names = [(stage, i) for stage, count in enumerate(self.blocks, start=1) for i in range(count)]
        blocks = [(f"stage{stage}.{i}", rf"stage{stage}\.{i}") for stage, i in names]
        name, pattern = blocks[-1]
        return (("stem", "stem_.*"), *blocks[:-1], (name, f"{pattern}|norm"), ("head", "head"))

    @property
    def first_layer(self) -> str:
        """The path of the kernel [H, W, C, D] that sees the pixels."""
        return "params/stem_conv/kernel"

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives the layer scales, which start near zero."""
        return (r".*/layer_scale",)

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return 4 * 2 ** (len(self.blocks) - 1)

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; blocks return maps [B, h, w, c], the last one pooled features [B, D]."""
        if name == "head":
            return classify(x, self.num_classes, train=train, dropout=self.dropout)
        if name == "stem":
            x = conv(self.width, 4, 4, dtype=self.dtype, name="stem_conv")(x)
            return LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="stem_norm")(x)
        stage, index = (int(part) for part in name.removeprefix("stage").split("."))
        before, total = sum(self.blocks[: stage - 1]) + index, sum(self.blocks)
        x = (nn.remat(Block, static_argnums=2) if self.remat else Block)(
            width=self.width * 2 ** (stage - 1),
            halve=stage > 1 and index == 0,
            gelu=self.gelu,
            epsilon=self.epsilon,
            drop_path=self.drop_path * before / max(total - 1, 1),
            dtype=self.dtype,
            name=name,
        )(x, train)
        if before < total - 1:
            return x
        norm = LayerNorm(epsilon=self.head_epsilon, dtype=self.dtype, name="norm")
        # As in Keras, the norm comes first where another pooling follows.
        return self.pooled(norm(x)) if self.head_pool else norm(self.pooled(x))
