"""Batch normalisation that keeps the same running statistics as PyTorch, in the form that the backend does fastest."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.parallel.backend import backend


def norm_fields(model: Any) -> dict[str, Any]:
    """Gives the fields of BatchNorm that a model has for all of its own."""
    return {name: getattr(model, name) for name in ("epsilon", "momentum", "unbiased", "axis_name", "dtype")}


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` whose running variance is the unbiased one, n / (n - 1) times that of the batch.

    Weights that were trained in PyTorch come with such variances, and go on with them. `momentum` is the share that the
    old statistics keep (0.9 here is 0.1 in PyTorch). With `unbiased=False` it is Keras' rule, and Flax' own. With
    `relu` a ReLU follows, which CPUs and GPUs take into the passes of the normalisation.
    """

    momentum: float = 0.9
    unbiased: bool = True
    relu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        """Normalises [B, H, W, C] over all axes but the last."""
        averaged = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if backend() in ("cpu", "gpu") and not averaged and not self.is_initializing() and self._is_usual(mask):
            return self._over_batch(x)
        before = None if averaged or self.is_initializing() else self.get_variable("batch_stats", "var")
        y = super().__call__(x, use_running_average=averaged, mask=mask)
        if before is not None and self.unbiased and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            if self.axis_name is not None:
                count = count * jax.lax.psum(1, self.axis_name)
            kept = self.momentum * before
            after = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", kept + (after - kept) * (count / jnp.maximum(count - 1, 1)))
        return nn.relu(y) if self.relu else y

    def _is_usual(self, mask: Any) -> bool:
        usual = self.use_scale and self.use_bias and self.axis == -1 and self.axis_index_groups is None
        return usual and mask is None and self.axis_name is None

    def _over_batch(self, x: jax.Array) -> jax.Array:
        """Normalises with the statistics of the batch, in as few passes over it as there can be."""
        width = x.shape[-1:]
        scale = self.param("scale", self.scale_init, width)
        bias = self.param("bias", self.bias_init, width)
        y, mean, variance = normalize_batch(x.astype(self.dtype), scale, bias, self.epsilon, self.relu)
        if self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            if self.unbiased:
                variance = variance * (count / max(count - 1, 1))
            for name, new in (("mean", mean), ("var", variance)):
                old: jax.Array = self.get_variable("batch_stats", name)
                self.put_variable("batch_stats", name, self.momentum * old + (1 - self.momentum) * new)
        return y


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gives [..., C] normalised by its own statistics, in float32 sums; then its mean and its variance, both [C].

    The gradient reads the input and the gradient of the output twice and writes once, and does the ReLU on the way;
    what XLA derives by itself writes the masked gradient and reads it again. Mean and variance have no gradient.
    """
    return _forward(x, scale, bias, epsilon, relu)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool) -> tuple[Any, Any]:
    wide, count = x.astype(jnp.float32), x.size // x.shape[-1]
    if backend() == "cpu":
        # XLA's sum of one array is as fast there as its pixels are read.
        total, squares = (values.sum(tuple(range(x.ndim - 1))) for values in (wide, jnp.square(wide)))
    else:
        total, squares = _sums(wide, jnp.square(wide))
    mean = total / count
    variance = jnp.maximum(squares / count - jnp.square(mean), 0.0)
    rate = jax.lax.rsqrt(variance + epsilon)
    y = _affine(wide, *_line(scale, bias, mean, rate))
    y = nn.relu(y) if relu else y
    return (y.astype(x.dtype), mean, variance), (x, scale, bias, mean, rate)


def _backward(epsilon: float, relu: bool, saved: Any, gradients: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, bias, mean, rate = saved
    wide, count = x.astype(jnp.float32), x.size // x.shape[-1]
    gradient = gradients[0].astype(jnp.float32)
    slope, offset = _line(scale, bias, mean, rate)
    if relu:
        gradient = jnp.where(_affine(wide, slope, offset) > 0, gradient, 0.0)
    total, product = _sums(gradient, gradient * _affine(wide, jnp.ones_like(mean), -mean))
    scale_gradient = product * rate
    # What the mean and the variance of the batch hand back is a line in x: one multiplication and one sum an element.
    steep = -slope * rate * scale_gradient / count
    flat = -slope * total / count - steep * mean
    along = [line.reshape((1,) * (x.ndim - 1) + line.shape) for line in (slope, steep, flat)]
    return (along[0] * gradient + along[1] * wide + along[2]).astype(x.dtype), scale_gradient, total


normalize_batch.defvjp(_forward, _backward)


def _line(scale: jax.Array, bias: jax.Array, mean: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
    slope = rate * scale
    return slope, bias - mean * slope


def _affine(x: jax.Array, slope: jax.Array, offset: jax.Array) -> jax.Array:
    lead = (1,) * (x.ndim - 1)
    return x * slope.reshape(lead + slope.shape) + offset.reshape(lead + offset.shape)


def _sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums of two arrays [..., C] over all axes but the last, as one reduction: half the kernels of two."""
    axes = tuple(range(x.ndim - 1))
    if jax.device_count() > 1:
        # What one reduction of two arrays gives on each device XLA gathers, array by array; plain sums are all-reduced.
        return x.sum(axes), y.sum(axes)
    zero = jnp.zeros((), jnp.float32)

    def add(a: Any, b: Any) -> Any:
        return a[0] + b[0], a[1] + b[1]

    if backend() == "cpu" and x.ndim > 2:
        # Line by line, which stay in the cache, and then the lines: a third of the time of all at once.
        lines = jnp.stack(jax.lax.optimization_barrier(jax.lax.reduce((x, y), (zero, zero), add, (x.ndim - 2,))))
        first, second = lines.sum(tuple(range(1, lines.ndim - 1)))
    else:
        first, second = jax.lax.reduce((x, y), (zero, zero), add, axes)
    return first, second
