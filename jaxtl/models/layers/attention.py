"""Self-attention: one fused projection, and the softmax of products in the form that the backend does fastest."""

import functools
import warnings
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.attention_weights import read
from jaxtl.models.layers.dense import Dense, multiply
from jaxtl.parallel.backend import backend

# Xavier for a square projection; written by fan-in, because the fused q, k, v kernel [D, 3D] is three of those.
_square_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

# cuDNN's flash attention, JAX' own function, and plain products; "auto" stands for what `choose_attention` says.
FORMS = ("cudnn", "xla", "plain")


def choose_attention(
    backend: str, dtype: Any, *, head_width: int, queries: int, keys: int, capability: str = ""
) -> str:
    """Gives the form of attention to use where nobody has measured: one of FORMS.

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
    fits = fits_cudnn(backend, dtype, head_width=head_width, queries=queries, keys=keys, capability=capability)
    return "cudnn" if fits else "xla"


def fits_cudnn(backend: str, dtype: Any, *, head_width: int, queries: int, keys: int, capability: str) -> bool:
    """Tells whether cuDNN has flash attention for these shapes; the arguments are those of `choose_attention`."""
    if backend != "gpu" or jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or not capability[:1].isdigit():
        return False
    major = int(capability.partition(".")[0])
    widest = 256 if major >= 9 else 128
    # One class token that asks is no work worth a kernel of its own.
    return major >= 8 and head_width % 8 == 0 and head_width <= widest and queries == keys


def padded_tokens(form: str, tokens: int) -> int:
    """Gives the number of tokens that an encoder carries for `tokens` real ones.

    In training cuDNN wants an even number. Padded once, after the embedding, nothing is copied in the blocks. A
    multiple of 8 showed no gain: 46.2 and 44.8 ms a step of ViT-B/16 on an H100, in a run that its host slowed down.
    """
    return tokens + tokens % 2 if form == "cudnn" else tokens


def capability() -> str:
    """Gives the compute capability of the GPU that this process uses, such as "9.0", or "" without one."""
    return str(getattr(jax.local_devices()[0], "compute_capability", "")) if jax.default_backend() == "gpu" else ""


def resolve(form: str, dtype: Any, *, head_width: int, tokens: int) -> str:
    """Gives one of FORMS for `form`, "auto" included, and self-attention of that many tokens."""
    if form != "auto":
        return "plain" if backend() == "none" else form
    shape = {"head_width": head_width, "queries": tokens, "keys": tokens}
    return choose_attention(backend(), dtype, capability=capability(), **shape)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, *, form: str = "auto", real: int | None = None
) -> jax.Array:
    """Gives softmax(query key^T / sqrt(d)) value; queries [B, M, H, d], keys and values [B, N, H, d].

    Args:
      query: what asks.
      key: what is asked.
      value: what is answered.
      form: one of FORMS, or "auto". One that JAX refuses for these shapes gives way to the next, which is said once.
      real: the number of keys that are tokens; those after them are padding, and get no weight. None for all.
    """
    count = key.shape[1]
    real = count if real is None else real
    if form == "auto" or backend() == "none" or (form == "cudnn" and query.shape[1] != count):
        # Few queries, as of a last block whose class token alone is read, are no work for cuDNN. And where operations
        # are in their plain form, as to be counted, one that is named is too.
        shape = {"head_width": query.shape[-1], "queries": query.shape[1], "keys": count}
        form = choose_attention(backend(), query.dtype, capability=capability(), **shape)
    asks, keys, values = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value))
    return _compute(accepted(form, asks, keys, values, real), query, key, value, real)


def accepted(
    form: str, query: jax.ShapeDtypeStruct, key: jax.ShapeDtypeStruct, value: jax.ShapeDtypeStruct, real: int
) -> str:
    """Gives the form, or where JAX refuses it for these shapes the next in FORMS that it does not, and says so once."""
    refusal = refused(form, query, key, value, real)
    if not refusal:
        return form
    instead = accepted(FORMS[FORMS.index(form) + 1], query, key, value, real)
    tokens = f"{key.shape[1]} tokens of {query.dtype}"
    _say_once(f"attention {form!r} is refused for {tokens}: {refusal}; {instead!r} is used instead")
    return instead


@functools.cache
def refused(
    form: str, query: jax.ShapeDtypeStruct, key: jax.ShapeDtypeStruct, value: jax.ShapeDtypeStruct, real: int
) -> str:
    """Gives why JAX refuses a form for these shapes, forwards or backwards, or "" where it does not.

    Asked ahead of time, since within `jax.checkpoint` or a loop JAX refuses what it differentiates long after the call.
    """
    if form == "plain":
        return ""

    def total(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return _compute(form, query, key, value, real).astype(jnp.float32).sum()

    try:
        jax.eval_shape(jax.grad(total, argnums=(0, 1, 2)), query, key, value)
    except (NotImplementedError, ValueError, RuntimeError, TypeError) as error:
        return str(error).partition("\n")[0][:200] or type(error).__name__
    return ""


@functools.cache
def _say_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _compute(form: str, query: jax.Array, key: jax.Array, value: jax.Array, real: int) -> jax.Array:
    count = key.shape[1]
    if form == "plain":
        return _plain(query, key, value, real)
    # The lengths, not a mask: cuDNN would read a mask as a bias of [B, H, M, N] numbers.
    lengths = None if real == count else jnp.full(key.shape[:1], real, jnp.int32)
    implementation: Literal["cudnn", "xla"] = "cudnn" if form == "cudnn" else "xla"
    return jax.nn.dot_product_attention(query, key, value, implementation=implementation, key_value_seq_lengths=lengths)


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, real: int) -> jax.Array:
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = _product(query, key.swapaxes(2, 3)).astype(jnp.float32)
    if real != key.shape[2]:
        scores = jnp.where((jnp.arange(key.shape[2]) < real)[None, None, None], scores, -jnp.inf)
    weights = read(jax.nn.softmax(scores, axis=-1))
    return _product(weights.astype(value.dtype), value).swapaxes(1, 2)


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the products of matrices of each head; of a single one without its axis, which LiteRT cannot convert."""
    return (first[:, 0] @ second[:, 0])[:, None] if first.shape[1] == 1 else first @ second


class QueryKeyValue(nn.Module):
    """One fused projection to queries, keys and values; queries may be asked of the first tokens only.

    Attributes:
      features: the width F of each of the three; 0 for that of the tokens.
    """

    use_bias: bool = True
    dtype: Any = jnp.float32
    features: int = 0

    multiplies_input: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, queries: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps tokens [B, N, D] to queries [B, queries, F], keys [B, N, F] and values [B, N, F]."""
        width = self.features or x.shape[-1]
        kernel = self.param("kernel", _square_init, (x.shape[-1], 3 * width)).astype(self.dtype)
        x = x.astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)) if self.use_bias else jnp.zeros(3 * width)
        bias = bias.astype(self.dtype)[None, None]
        if backend() == "gpu":
            return self._apart(x, kernel, bias, queries)
        # One product where all are asked for: a CPU takes longer over three.
        first = 3 * width if queries == x.shape[1] else width
        query = self._product(x[:, :queries], kernel[:, :first], bias[..., :first])
        rest = query[..., width:] if first > width else self._product(x, kernel[:, first:], bias[..., first:])
        return query[..., :width], rest[..., :width], rest[..., width:]

    def _apart(
        self, x: jax.Array, kernel: jax.Array, bias: jax.Array, queries: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Three products, whose results lie as the attention kernel reads them: cut out of one, each is copied."""
        width = kernel.shape[1] // 3
        # The barrier keeps XLA from joining products of the same tokens again.
        tokens = jax.lax.optimization_barrier((x[:, :queries], x, x))
        cuts = [slice(i * width, (i + 1) * width) for i in range(3)]
        query, key, value = (self._product(t, kernel[:, c], bias[..., c]) for t, c in zip(tokens, cuts, strict=True))
        return query, key, value

    def _product(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        """A method, so that an interceptor can say where the product lies on the devices before it is cut in three."""
        return multiply(x, kernel) + bias


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      form: one of FORMS, or "auto".
      real: the number of tokens that are not padding; None for all.
      head_width: the channels of a head; 0 for that share of the tokens' width.
    """

    heads: int
    qkv_bias: bool = True
    form: str = "auto"
    real: int | None = None
    dtype: Any = jnp.float32
    head_width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, outputs: int) -> jax.Array:
        """Maps tokens [B, N, D] to what the first of them attend to, [B, outputs, D]."""
        batch, _, width = x.shape
        head_width = self.head_width or width // self.heads
        features = self.heads * head_width
        parts = QueryKeyValue(self.qkv_bias, self.dtype, features, name="qkv")(x, outputs)
        query, key, value = (part.reshape(batch, -1, self.heads, head_width) for part in parts)
        x = attend(query, key, value, form=self.form, real=self.real).reshape(batch, outputs, features)
        return Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="proj")(x)
