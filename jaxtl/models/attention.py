"""Self-attention: one fused projection, and the softmax of products in the form that the backend does fastest."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.backend import backend
from jaxtl.models.linear import Dense, multiply

# Xavier for a square projection; written by fan-in, because the fused q, k, v kernel [D, 3D] is three of those.
_square_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def choose_attention(
    backend: str, dtype: Any, *, head_width: int, queries: int, keys: int, capability: str = ""
) -> str:
    """Gives the form of attention to use: "plain" products, JAX' own function as "xla", or "cudnn" (flash attention).

    Args:
      backend: "cpu", "gpu", "tpu", or "none" for the plain one.
      dtype: of queries, keys and values.
      head_width: channels of a head.
      queries: number of tokens that ask.
      keys: number of tokens that are asked.
      capability: of the GPU, such as "9.0"; that of AMD's begins with letters.
    """
    if backend in ("cpu", "none"):
        # Plain batched matrix products take four fifths of the time of the general function.
        return "plain"
    if backend != "gpu" or jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or not capability[:1].isdigit():
        return "xla"
    major = int(capability.partition(".")[0])
    widest = 256 if major >= 9 else 128
    # One class token that asks is no work worth a kernel of its own.
    fits = major >= 8 and head_width % 8 == 0 and head_width <= widest and queries == keys
    return "cudnn" if fits else "xla"


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Gives softmax(query key^T / sqrt(d)) value; queries [B, M, H, d], keys and values [B, N, H, d]."""
    target = backend()
    form = choose_attention(
        target,
        query.dtype,
        head_width=query.shape[-1],
        queries=query.shape[1],
        keys=key.shape[1],
        capability=str(getattr(jax.local_devices()[0], "compute_capability", ""))
        if jax.default_backend() == "gpu"
        else "",
    )
    if form != "plain":
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn" if form == "cudnn" else "xla")
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = jax.nn.softmax((query @ key.swapaxes(2, 3)).astype(jnp.float32), axis=-1).astype(value.dtype)
    return (scores @ value).swapaxes(1, 2)


class QueryKeyValue(nn.Module):
    """One fused projection to queries, keys and values; queries may be asked of the first tokens only."""

    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, queries: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps tokens [B, N, D] to queries [B, queries, D], keys [B, N, D] and values [B, N, D]."""
        width = x.shape[-1]
        x = x.astype(self.dtype)
        kernel = self.param("kernel", _square_init, (width, 3 * width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)) if self.use_bias else jnp.zeros(3 * width)
        bias = bias.astype(self.dtype)[None, None]
        # One product where all are asked for: a CPU takes longer over three.
        first = 3 * width if queries == x.shape[1] else width
        query = self._product(x[:, :queries], kernel[:, :first], bias[..., :first])
        rest = query[..., width:] if first > width else self._product(x, kernel[:, first:], bias[..., first:])
        return query[..., :width], rest[..., :width], rest[..., width:]

    def _product(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        """A method, so that an interceptor can say where the product lies on the devices before it is cut in three."""
        return multiply(x, kernel) + bias


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: int
    qkv_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, outputs: int) -> jax.Array:
        """Maps tokens [B, N, D] to what the first of them attend to, [B, outputs, D]."""
        batch, _, width = x.shape
        parts = QueryKeyValue(self.qkv_bias, self.dtype, name="qkv")(x, outputs)
        query, key, value = (part.reshape(batch, -1, self.heads, width // self.heads) for part in parts)
        x = attend(query, key, value).reshape(batch, outputs, width)
        return Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="proj")(x)
