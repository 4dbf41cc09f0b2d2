"""From stored pixels to what the model sees, on the device: uint8 travels, float32 is made there."""

import jax
import jax.numpy as jnp

from jaxtl.preprocessing import Pixels


def normalize(images: jax.Array, pixels: Pixels) -> jax.Array:
    """Returns (images / 255 - mean) / std as float32.

    Args:
      images: uint8 [B, H, W, C].
      pixels: the facts of the weights.
    """
    mean = jnp.asarray(pixels.mean, jnp.float32)[None, None, None]
    std = jnp.asarray(pixels.std, jnp.float32)[None, None, None]
    # One multiplication and one addition a value: the division is done on the constants.
    return images.astype(jnp.float32) * (1 / (255 * std)) - mean / std
