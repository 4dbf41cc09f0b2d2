"""Batch normalisation that keeps the same running statistics as PyTorch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` whose running variance is the unbiased one, n / (n - 1) times that of the batch.

    Weights that were trained in PyTorch come with such variances, and go on with them. `momentum` is the share that the
    old statistics keep (0.9 here is 0.1 in PyTorch). With `unbiased=False` it is Keras' rule, and Flax' own.
    """

    momentum: float = 0.9
    unbiased: bool = True

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        """Normalises [B, H, W, C] over all axes but the last."""
        averaged = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        before = None if averaged or self.is_initializing() else self.get_variable("batch_stats", "var")
        y = super().__call__(x, use_running_average=averaged, mask=mask)
        if before is not None and self.unbiased and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            if self.axis_name is not None:
                count = count * jax.lax.psum(1, self.axis_name)
            kept = self.momentum * before
            after = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", kept + (after - kept) * (count / jnp.maximum(count - 1, 1)))
        return y
