"""The Vision Transformer (https://arxiv.org/abs/2010.11929) and its descendants DeiT, DeiT III and DINOv2."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.groups import Groups, span
from jaxtl.models.naming import Naming

# Xavier for a square projection; written by fan-in, because the fused q, k, v kernel [D, 3D] is three of those.
_square_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    heads: int
    qkv_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, N, D] to tokens [B, N, D]."""
        batch, tokens, width = x.shape
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, kernel_init=_square_init, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, width // self.heads), 2, 0)
        x = jax.nn.dot_product_attention(query, key, value).reshape(batch, tokens, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="proj")(x)


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    hidden: int
    gelu: str
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, N, D] to tokens [B, N, D]."""
        init = nn.initializers.xavier_uniform()
        width = x.shape[-1]
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=init, name="fc1")(x)
        x = nn.gelu(x, approximate=self.gelu == "tanh")
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(width, dtype=self.dtype, kernel_init=init, name="fc2")(x)


class Block(nn.Module):
    """A pre-norm encoder block: attention, then the MLP, each on a residual branch."""

    heads: int
    hidden: int
    qkv_bias: bool
    layer_scale: bool
    gelu: str
    epsilon: float
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, N, D] to tokens [B, N, D]."""
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.qkv_bias, self.dtype, name="attn")(y)
        x = x + self._branch(y, "ls1", train)
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.hidden, self.gelu, self.dropout, self.dtype, name="mlp")(y, train)
        return x + self._branch(y, "ls2", train)

    def _branch(self, y: jax.Array, scale: str, train: bool) -> jax.Array:
        """The end of a residual branch: dropout, layer scale, stochastic depth."""
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        if self.layer_scale:
            y = y * self.param(scale, nn.initializers.constant(1e-5), (y.shape[-1],)).astype(y.dtype)[None, None]
        # Stochastic depth (https://arxiv.org/abs/1603.09382): one draw for all tokens of an example.
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2))(y, deterministic=not train)


class ViT(nn.Module):
    """A Vision Transformer from images [B, H, W, C] to logits [B, num_classes].

    Attributes:
      image_size: side of the square images, in pixels; a multiple of `patch`.
      mlp: hidden width of the MLPs; 0 stands for 4 x `width`.
      pool: what the head sees: "cls" (the class token), "mean" (of the patch tokens) or "cls+mean" (both, as DINOv2).
      class_token: whether there is a class token; `pool="mean"` does without.
      registers: number of register tokens after the class token (https://arxiv.org/abs/2309.16588).
      distilled: whether there is a distillation token after the class token (https://arxiv.org/abs/2012.12877).
      teacher_head: whether that token has a head of its own; the logits are then the mean of both.
      embed_prefix: whether the class token has a position embedding too (not in DeiT III).
      layer_scale: whether each branch is scaled per channel (https://arxiv.org/abs/2103.17239).
      norm_after_pool: whether the final norm follows the pooling; it matters for "mean" only.
      pre_logits: width of a tanh layer before the head; 0 for none.
      gelu: "exact" or "tanh" (the approximation of Google's own code).
    """

    num_classes: int
    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: int = 0
    pool: str = "cls"
    class_token: bool = True
    registers: int = 0
    distilled: bool = False
    teacher_head: bool = False
    embed_prefix: bool = True
    qkv_bias: bool = True
    layer_scale: bool = False
    norm_after_pool: bool = False
    pre_logits: int = 0
    gelu: str = "exact"
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    def groups(self) -> Groups:
        """Gives the groups from input to head; the final norm goes with the last block."""
        last = self.depth - 1
        blocks = tuple((f"block{i}", f"block{i}" if i < last else f"block{i}|norm|fc_norm") for i in range(self.depth))
        embed = ("embed", "patch_embed|cls_token|dist_token|reg_token|pos_embed")
        return (embed, *blocks, ("head", "pre_logits|head|head_dist"))

    @property
    def prefix_tokens(self) -> int:
        """The number of tokens before the patch tokens: class, distillation and register tokens."""
        return self.class_token + self.distilled + self.registers

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, start: str | None = None, stop: str | None = None
    ) -> jax.Array:
        """Maps normalised images [B, H, W, C] to float32 logits [B, num_classes].

        Args:
          images: the images, or with `start` what the group before it returned.
          train: whether dropout and stochastic depth draw (from the "dropout" key).
          start: the first group to run.
          stop: the last group to run; blocks return tokens [B, N, D], the last one pooled features [B, D].

        With `num_classes` 0 there is no head, and the pooled features are returned.
        """
        x = images
        for name in span(self.groups(), start, stop):
            if name == "embed":
                x = self._embed(x, train)
            elif name == "head":
                x = self._head(x)
            else:
                x = self._block(x, int(re.sub(r"\D", "", name)), train)
        return x

    def _embed(self, images: jax.Array, train: bool) -> jax.Array:
        batch, height, width = images.shape[:3]
        if (height, width) != (self.image_size, self.image_size) or height % self.patch:
            raise ValueError(
                f"images of {height} x {width} were given to a ViT built for {self.image_size} x {self.image_size} "
                f"in patches of {self.patch}"
            )
        x = PatchEmbed(self.patch, self.width, self.dtype, name="patch_embed")(images)
        init = nn.initializers.normal(0.02)
        names = ["cls_token"] * self.class_token + ["dist_token"] * self.distilled
        tokens = [self.param(name, init, (1, 1, self.width)) for name in names]
        registers = [self.param("reg_token", init, (1, self.registers, self.width))] if self.registers else []
        embedded = len(tokens) if self.embed_prefix else 0
        pos = self.param("pos_embed", init, (1, embedded + x.shape[1], self.width)).astype(self.dtype)
        x = x + pos[:, embedded:]
        prefix = [token.astype(self.dtype) for token in tokens]
        if embedded:
            prefix = [token + pos[:, i : i + 1] for i, token in enumerate(prefix)]
        prefix += [token.astype(self.dtype) for token in registers]
        prefix = [jnp.broadcast_to(token, (batch, *token.shape[1:])) for token in prefix]
        x = jnp.concatenate([*prefix, x], axis=1)
        return nn.Dropout(self.dropout)(x, deterministic=not train)

    def _block(self, x: jax.Array, index: int, train: bool) -> jax.Array:
        x = Block(
            heads=self.heads,
            hidden=self.mlp or 4 * self.width,
            qkv_bias=self.qkv_bias,
            layer_scale=self.layer_scale,
            gelu=self.gelu,
            epsilon=self.epsilon,
            dropout=self.dropout,
            drop_path=self.drop_path * index / max(self.depth - 1, 1),
            dtype=self.dtype,
            name=f"block{index}",
        )(x, train)
        if index < self.depth - 1:
            return x
        # timm gives the norm after pooling a name of its own, since weights for one place do not fit the other.
        name = "fc_norm" if self.norm_after_pool else "norm"
        norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=name)
        return norm(self._pool(x)) if self.norm_after_pool else self._pool(norm(x))

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.pool == "cls":
            return x[:, :2] if self.teacher_head else x[:, 0]
        mean = x[:, self.prefix_tokens :].mean(axis=1)
        return mean if self.pool == "mean" else jnp.concatenate([x[:, 0], mean], axis=-1)

    def _head(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        if not self.num_classes:
            return x
        if self.pre_logits:
            x = jnp.tanh(nn.Dense(self.pre_logits, name="pre_logits")(x))
        # A zero head starts with a uniform prediction: the first steps do not shake what was learnt before.
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")
        if not self.teacher_head:
            return head(x)
        teacher = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head_dist")
        return (head(x[:, 0]) + teacher(x[:, 1])) / 2


class PatchEmbed(nn.Module):
    """Cuts images into square patches and projects each: a convolution whose stride is its kernel size."""

    patch: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to tokens [B, H/P * W/P, D], row by row."""
        batch, height, width, channels = images.shape
        p = self.patch
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        # A matrix product, since a convolution of this shape is slow on a CPU and its gradient slower.
        x = images.astype(self.dtype).reshape(batch, height // p, p, width // p, p, channels)
        x = x.swapaxes(2, 3).reshape(batch, (height // p) * (width // p), p * p * channels)
        x = x @ kernel.astype(self.dtype).reshape(p * p * channels, self.width)
        return x + bias.astype(self.dtype)[None, None]


def _sizes(patch: int, width: int, depth: int, heads: int, image_size: int = 224, **others: Any) -> dict[str, Any]:
    return {"image_size": image_size, "patch": patch, "width": width, "depth": depth, "heads": heads, **others}


_TI, _S, _B, _L, _H = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1280, 32, 16)

VARIANTS: dict[str, dict[str, Any]] = {
    "vit_ti16": _sizes(16, *_TI),
    "vit_s16": _sizes(16, *_S),
    "vit_s32": _sizes(32, *_S),
    "vit_b8": _sizes(8, *_B),
    "vit_b16": _sizes(16, *_B),
    "vit_b32": _sizes(32, *_B),
    "vit_l14": _sizes(14, *_L),
    "vit_l16": _sizes(16, *_L),
    "vit_l32": _sizes(32, *_L),
    "vit_h14": _sizes(14, *_H),
    "vit_petals": _sizes(8, 80, 6, 5, image_size=64),
}

MODEL = ViT
IMAGE_SIZE = 224

_TIMM = (
    ("patch_embed.proj", "patch_embed", "conv"),
    ("cls_token", "cls_token", "array"),
    ("dist_token", "dist_token", "array"),
    ("reg_token", "reg_token", "array"),
    ("pos_embed", "pos_embed", "array"),
    ("blocks.{i}.norm1", "block{i}/norm1", "norm"),
    ("blocks.{i}.attn.qkv", "block{i}/attn/qkv", "dense"),
    ("blocks.{i}.attn.proj", "block{i}/attn/proj", "dense"),
    ("blocks.{i}.ls1.gamma", "block{i}/ls1", "array"),
    ("blocks.{i}.norm2", "block{i}/norm2", "norm"),
    ("blocks.{i}.mlp.fc1", "block{i}/mlp/fc1", "dense"),
    ("blocks.{i}.mlp.fc2", "block{i}/mlp/fc2", "dense"),
    ("blocks.{i}.ls2.gamma", "block{i}/ls2", "array"),
    ("norm", "norm", "norm"),
    ("fc_norm", "fc_norm", "norm"),
    ("pre_logits.fc", "pre_logits", "dense"),
    ("head", "head", "dense"),
    ("head_dist", "head_dist", "dense"),
)

NAMINGS = (Naming("timm", "torch", _TIMM, fields={"epsilon": 1e-6}),)
