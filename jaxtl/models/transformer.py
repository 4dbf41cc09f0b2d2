"""The Vision Transformer as a module, from the patch embedding to the head; vit, deit, dinov2 and clip name it."""

import itertools
import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import Scope

from jaxtl.compress.structure import Cut, Units
from jaxtl.models.base import Fit, GroupedModel, Groups, Shape, classify
from jaxtl.models.layers.attention import FORMS, padded_tokens, resolve
from jaxtl.models.layers.gelu import KINDS
from jaxtl.models.layers.layernorm import LayerNorm
from jaxtl.models.layers.patch_embed import PatchEmbed
from jaxtl.models.layers.transformer_block import Block
from jaxtl.models.resize import resize_positions
from jaxtl.parallel.scanned_layers import blocks_of, loop_key, rows


class ViT(GroupedModel):
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
      pre_norm: whether a norm follows the embedding, which then has no bias, as in CLIP.
      final_norm: whether a norm follows the last block.
      norm_after_pool: whether the final norm follows the pooling; it matters for "mean" only.
      pre_logits: width of a tanh layer before the head; 0 for none.
      gelu: "exact", "tanh" (the approximation of Google's own code) or "quick" (that of CLIP's).
      remat: whether training computes each block a second time instead of keeping what lies within it.
      scan: whether blocks that are alike are compiled once and run as a loop, over their stacked parameters.
      attention: its form: "auto", or one of `jaxtl.models.layers.attention.FORMS`.
      block_mlp: hidden width of the MLP of each block, where structured pruning left them unequal; () for `mlp`.
      block_heads: likewise the heads of each block, which stay as wide as `heads` makes them; () for `heads`.
    """

    unseen: ClassVar[tuple[str, ...]] = ("epsilon", "gelu", "heads", "pool")

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
    pre_norm: bool = False
    final_norm: bool = True
    norm_after_pool: bool = False
    pre_logits: int = 0
    gelu: str = "exact"
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    attention: str = "auto"
    dtype: Any = jnp.float32
    block_mlp: tuple[int, ...] = ()
    block_heads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # A hybrid counts its patches on a smaller map.
        if self.image_size % self.patch and type(self) is ViT:
            below = self.image_size // self.patch * self.patch
            near = " and ".join(str(size) for size in (below, below + self.patch) if size)
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch {self.patch}; the nearest that fit are {near}"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        fields = {"pool": ("cls", "mean", "cls+mean"), "gelu": tuple(KINDS), "attention": ("auto", *FORMS)}
        for name, allowed in fields.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}")
        for name in ("block_mlp", "block_heads"):
            if (given := getattr(self, name)) and (len(given) != self.depth or min(given) < 1):
                raise ValueError(f"{name} {given} is not one number above 0 for each of {self.depth} blocks")
        if self.pool != "mean" and not self.class_token:
            raise ValueError(f"pool {self.pool!r} needs class_token")
        super().__post_init__()

    def groups(self) -> Groups:
        """Gives the groups from input to head; the final norm goes with the last block."""
        last = self.depth - 1
        blocks = tuple((f"block{i}", f"block{i}" if i < last else f"block{i}|norm|fc_norm") for i in range(self.depth))
        embed = ("embed", "patch_embed|cls_token|dist_token|reg_token|pos_embed|norm_pre")
        return (embed, *blocks, ("head", "pre_logits|head|head_dist"))

    @property
    def prefix_tokens(self) -> int:
        """The number of tokens before the patch tokens: class, distillation and register tokens."""
        return self.class_token + self.distilled + self.registers

    @property
    def embedded_tokens(self) -> int:
        """The number of prefix tokens that have position embeddings."""
        return self.class_token + self.distilled if self.embed_prefix else 0

    def runs(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Gives neighbouring groups that run as one loop: those of a stack, and with `scan` blocks that are alike."""
        holders = self._holders()
        runs = itertools.groupby(names, key=lambda name: holders.get(name) or self._loop_key(name))
        return [tuple(run) for _, run in runs]

    def _holders(self) -> dict[str, str]:
        """Gives the stack that each block lies in, if it lies in one."""
        stacks = [name for name in self.variables.get("params", {}) if blocks_of(name)]
        return {block: name for name in stacks for block in blocks_of(name)}

    def run_alike(self, x: jax.Array, names: Sequence[str], train: bool) -> jax.Array:
        """Runs neighbouring blocks on tokens [B, N, D] as one loop."""
        return self._loop(self._pad(x), list(names), train, self._holders().get(names[0], ""))

    def finish(self, x: jax.Array, name: str) -> jax.Array:
        """Takes the padding off tokens [B, N, D] that a block gave."""
        return x[:, : self.tokens] if x.ndim == 3 and name.startswith("block") else x

    @property
    def first_layer(self) -> str:
        """The path of the kernel [P, P, C, D] that sees the pixels."""
        return "params/patch_embed/kernel"

    def classifier_paths(self) -> tuple[str, ...]:
        """Gives the kernels of the last dense layers: with a distillation token there are two, whose mean counts."""
        teacher = self.teacher_head and not self.custom_head
        return (self.head_path, "params/head_dist/kernel") if teacher else (self.head_path,)

    def no_weight_decay(self) -> tuple[str, ...]:
        """Gives regexes of parameter paths that weight decay leaves alone: positions and tokens, as in timm."""
        return ("pos_embed", "cls_token", "dist_token", "reg_token")

    def fit(self, path: str, before: Shape, after: Shape, *, positions: str) -> Fit | None:
        """Fits position embeddings [1, N, D] to another grid, besides what every model fits."""
        prefix = self.embedded_tokens
        if path == "params/pos_embed" and (before[:1], before[2:]) == (after[:1], after[2:]):
            if all(math.isqrt(count - prefix) ** 2 == count - prefix for count in (before[1], after[1])):
                return partial(resize_positions, tokens=after[1], prefix=prefix, how=positions)
            return None
        return super().fit(path, before, after, positions=positions)

    @property
    def tokens(self) -> int:
        """The number of tokens: prefix tokens and patches."""
        return self.prefix_tokens + self.grid**2

    def _pad(self, x: jax.Array) -> jax.Array:
        """Adds the padding that the form of attention wants to tokens [B, N, D], unless they have it."""
        form = resolve(self.attention, self.dtype, head_width=self.width // self.heads, tokens=self.tokens)
        missing = padded_tokens(form, self.tokens) - x.shape[1]
        return jnp.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

    def alike(self) -> tuple[str, ...]:
        """Gives the names of the blocks that can be run as one loop (see `jaxtl.parallel.scanned_layers`)."""
        unequal = self.block_mlp or self.block_heads
        return tuple(f"block{i}" for i in range(self.depth - 1)) if self.scan and not unequal else ()

    def _loop_key(self, name: str) -> Hashable:
        """Gives what neighbouring groups must have in common to be run as one loop."""
        if self.is_initializing() or name not in self.alike():
            return name
        return loop_key("/".join([*self.path, name]))

    @property
    def min_size(self) -> int:
        """The least side of images, in pixels, of which a map remains before the pooling."""
        return self.patch

    def roll_back(self, layers: Sequence[jax.Array]) -> jax.Array:
        """Follows what the head reads back through the attention of all blocks to the patches.

        Args:
          layers: a matrix for each block, from input to head, [B, N, N], or [B, M, N] of a last one of whose tokens
            the first M alone are read.

        Returns:
          [B, grid, grid], a number for each patch.
        """
        relevance = jnp.broadcast_to(self._shares_read(), (layers[0].shape[0], self.tokens))
        for layer in reversed(layers):
            read = relevance[:, : layer.shape[1]]
            relevance = relevance + jnp.einsum("bm,bmn->bn", read, layer)
        return relevance[:, self.prefix_tokens :].reshape(-1, self.grid, self.grid)

    def _shares_read(self) -> np.ndarray:
        """The share [1, N] that each token of the last block has in what the head reads."""
        shares = np.zeros((2, self.tokens), np.float32)
        first = 2 if self.teacher_head and not self.custom_head else 1
        shares[0, :first] = 1 / first
        shares[1, self.prefix_tokens :] = 1 / self.grid**2
        used = {"cls": [0], "mean": [1], "cls+mean": [0, 1]}["mean" if self.head_pool else self.pool]
        return shares[used].mean(axis=0, keepdims=True)

    def run_group(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Runs one group; the embedding and blocks return tokens [B, N, D], the last block pooled features [B, D]."""
        if name == "embed":
            self._check(x)
            return self._embed(x, train)
        if name == "head":
            return self._head(x, train)
        if name in self._holders():
            return self.run_alike(x, [name], train)
        return self._block(self._pad(x), int(name.removeprefix("block")), train)

    @property
    def grid(self) -> int:
        """The number of patches along each side."""
        return self.image_size // self.patch

    def _check(self, images: jax.Array) -> None:
        height, width = images.shape[1:3]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"images of {height} x {width} were given to a ViT built for {self.image_size} x {self.image_size}"
            )

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        embed = PatchEmbed(self.patch, self.width, self.dropout, self.dtype, not self.pre_norm, name="patch_embed")
        x = embed.drop(self._tokens(embed(x)), deterministic=not train)
        return self._norm("norm_pre")(x) if self.pre_norm else x

    def _tokens(self, x: jax.Array) -> jax.Array:
        """Adds the position embeddings to the patch tokens [B, N, D], and puts the prefix tokens before them."""
        init = nn.initializers.normal(0.02)
        names = ["cls_token"] * self.class_token + ["dist_token"] * self.distilled
        tokens = [self.param(name, init, (1, 1, self.width)) for name in names]
        registers = [self.param("reg_token", init, (1, self.registers, self.width))] if self.registers else []
        embedded = self.embedded_tokens
        pos = self.param("pos_embed", init, (1, embedded + x.shape[1], self.width)).astype(self.dtype)
        x = x + pos[:, embedded:]
        prefix = [token.astype(self.dtype) for token in tokens]
        if embedded:
            prefix = [token + pos[:, i : i + 1] for i, token in enumerate(prefix)]
        prefix += [token.astype(self.dtype) for token in registers]
        prefix = [jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in prefix]
        return jnp.concatenate([*prefix, x], axis=1)

    def _loop(self, x: jax.Array, names: list[str], train: bool, stack: str) -> jax.Array:
        """Runs neighbouring blocks over their parameters, which lie in a stack or are stacked here."""
        params = self.variables["params"]
        if stack:
            at = blocks_of(stack).index(names[0])
            leaves = jax.tree.map(lambda leaf: leaf[at : at + len(names)], dict(params[stack]))
        else:
            leaves = jax.tree.map(lambda *parts: jnp.stack(parts), *(dict(params[name]) for name in names))
        rates = [self._rate(int(name.removeprefix("block"))) for name in names]
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None

        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            leaves, rate, number = inputs
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, number)}
            # Below the path of the stack, or of the first block, so that what holds for frozen blocks holds here.
            name = stack or names[0]
            scope: Any = Scope({"params": leaves}, rngs, name=name, path=(*self.path, name))
            # Blocks of unequal widths are in no loop.
            block = Block(**self._block_fields(0, rate if self.drop_path else 0.0), parent=scope)
            return block(x, train, x.shape[1]), None

        body = jax.checkpoint(body, prevent_cse=False) if self.remat else body
        if self.scan:
            return jax.lax.scan(body, x, (leaves, jnp.asarray(rates, jnp.float32), jnp.arange(len(names))))[0]
        for number, inputs in enumerate(zip(rows(leaves, len(names)), rates, strict=True)):
            x, _ = body(x, (*inputs, number))
        return x

    def _rate(self, index: int) -> float:
        """The rate of stochastic depth of a block."""
        return self.drop_path * index / max(self.depth - 1, 1)

    def removable(self) -> tuple[Units, ...]:
        """Gives the hidden units of the MLP and the heads of each block."""
        found = []
        for i in range(self.depth):
            fields, block = self._block_fields(i, 0.0), f"params/block{i}"
            hidden = (Cut(f"{block}/mlp/fc1/kernel", 1), Cut(f"{block}/mlp/fc2/kernel", 0))
            rest = (Cut(f"{block}/mlp/fc1/bias", 0),)
            found.append(Units(f"block{i}/mlp", "block_mlp", i, fields["hidden"], hidden, rest))
            size = self.width // self.heads
            qkv, proj = Cut(f"{block}/attn/qkv/kernel", 1, size, 3), Cut(f"{block}/attn/proj/kernel", 0, size)
            biases = (Cut(f"{block}/attn/qkv/bias", 0, size, 3),) * self.qkv_bias
            found.append(Units(f"block{i}/attn", "block_heads", i, fields["heads"], (qkv, proj), biases))
        return tuple(found)

    def _block_fields(self, index: int, drop_path: float | jax.Array) -> dict[str, Any]:
        return {
            "heads": self.block_heads[index] if self.block_heads else self.heads,
            "hidden": self.block_mlp[index] if self.block_mlp else self.mlp or 4 * self.width,
            "head_width": self.width // self.heads,
            "qkv_bias": self.qkv_bias,
            "layer_scale": self.layer_scale,
            "gelu": self.gelu,
            "epsilon": self.epsilon,
            "dropout": self.dropout,
            "drop_path": drop_path,
            "attention": self.attention,
            "real": self.tokens,
            "dtype": self.dtype,
        }

    def _block(self, x: jax.Array, index: int, train: bool) -> jax.Array:
        outputs = x.shape[1]
        if index == self.depth - 1 and self.pool == "cls" and not self.head_pool:
            outputs = 2 if self.teacher_head else 1  # Nothing reads the other tokens: a sixth of the block remains.
        kind = nn.remat(Block, static_argnums=(2, 3)) if self.remat else Block
        x = kind(**self._block_fields(index, self._rate(index)), name=f"block{index}")(x, train, outputs)
        if index < self.depth - 1:
            return x
        if not self.final_norm:
            return self._pool(x)
        # timm gives the norm after pooling a name of its own, since weights for one place do not fit the other.
        if self.norm_after_pool and not self.head_pool:
            return self._norm("fc_norm")(self._pool(x))
        return self._pool(self._norm("fc_norm" if self.norm_after_pool else "norm")(x))

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=name)

    def _pool(self, x: jax.Array) -> jax.Array:
        x = x[:, : self.tokens]
        if self.head_pool:
            return self.pooled(x[:, self.prefix_tokens :])
        if self.pool == "cls":
            return x[:, :2] if self.teacher_head and not self.custom_head else x[:, 0]
        mean = x[:, self.prefix_tokens :].mean(axis=1)
        return mean if self.pool == "mean" else jnp.concatenate([x[:, 0], mean], axis=-1)

    def _head(self, x: jax.Array, train: bool) -> jax.Array:
        if self.pre_logits and self.num_classes:
            x = jnp.tanh(nn.Dense(self.pre_logits, name="pre_logits")(x.astype(jnp.float32)))
        head = partial(classify, num_classes=self.num_classes, train=train)
        if not (self.teacher_head and self.num_classes):
            return head(x)
        return (head(x[:, 0]) + head(x[:, 1], name="head_dist")) / 2
