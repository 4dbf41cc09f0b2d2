"""The encoder block of the Vision Transformer."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.attention import Attention
from jaxtl.models.layers.dense import Dense, multiply
from jaxtl.models.layers.gelu import biased_gelu
from jaxtl.models.layers.layernorm import LayerNorm
from jaxtl.parallel.backend import backend


class DenseGelu(nn.Module):
    """A dense layer and the GELU after it."""

    multiplies_input: ClassVar[bool] = True

    features: int
    gelu: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., features]."""
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return biased_gelu(multiply(x.astype(self.dtype), kernel.astype(self.dtype)), bias, self.gelu)


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    hidden: int
    gelu: str
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [..., D] to tokens [..., D]."""
        init = nn.initializers.xavier_uniform()
        width = x.shape[-1]
        x = DenseGelu(self.hidden, self.gelu, self.dtype, name="fc1")(x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Dense(width, dtype=self.dtype, kernel_init=init, name="fc2")(x)


class DropPath(nn.Dropout):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): one draw for all tokens of an example.

    Unlike that of dropout, its rate may be traced.
    """

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: bool | None = None, rng: Any = None) -> jax.Array:
        """Maps tokens [B, N, D] to tokens: those of an example become 0, or grow by 1 / (1 - rate)."""
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        if deterministic or (isinstance(self.rate, float) and self.rate == 0.0):
            return inputs
        keep = 1.0 - self.rate
        rng = self.make_rng("dropout") if rng is None else rng
        kept = jax.random.bernoulli(rng, keep, (inputs.shape[0], 1, 1))
        return jnp.where(kept, inputs / keep, 0).astype(inputs.dtype)


class Block(nn.Module):
    """A pre-norm encoder block: attention, then the MLP, each on a residual branch.

    Attributes:
      attention: its form (see `jaxtl.models.layers.attention`).
      real: the number of tokens that are not padding; None for all.
      head_width: the channels of a head; 0 for the tokens' width by the heads.
    """

    heads: int
    hidden: int
    qkv_bias: bool
    layer_scale: bool
    gelu: str
    epsilon: float
    dropout: float = 0.0
    drop_path: Any = 0.0  # A number, traced or not.
    attention: str = "auto"
    real: int | None = None
    dtype: Any = jnp.float32
    head_width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, outputs: int) -> jax.Array:
        """Maps tokens [B, N, D] to the first of them, [B, outputs, D]."""
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        attention = (self.heads, self.qkv_bias, self.attention, self.real, self.dtype, self.head_width)
        y = Attention(*attention, name="attn")(y, outputs)
        x, shape = x[:, :outputs], y.shape
        # From here on a GPU gets rows [B * N, D]: over [B, N, D] XLA turns the tokens to [N, D, B] and back.
        rows = (-1, shape[-1]) if backend() == "gpu" else shape
        x = x.reshape(rows) + self._branch(y, "ls1", train).reshape(rows)
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.hidden, self.gelu, self.dropout, self.dtype, name="mlp")(y, train)
        return (x + self._branch(y.reshape(shape), "ls2", train).reshape(rows)).reshape(shape)

    def _branch(self, y: jax.Array, scale: str, train: bool) -> jax.Array:
        """The end of a residual branch: dropout, layer scale, stochastic depth."""
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        if self.layer_scale:
            y = y * self.param(scale, nn.initializers.constant(1e-5), (y.shape[-1],)).astype(y.dtype)[None, None]
        return DropPath(self.drop_path)(y, deterministic=not train)
