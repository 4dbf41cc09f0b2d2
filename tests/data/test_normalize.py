import jax.numpy as jnp
import numpy as np

from jaxtl.data.normalize import normalize
from jaxtl.preprocessing import Pixels


def test_every_value_of_every_channel():
    pixels = Pixels(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    images = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (2, 16, 16, 3))
    expected = (images / 255 - np.array(pixels.mean)) / np.array(pixels.std)
    normalized = normalize(jnp.asarray(images), pixels)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, expected, atol=1e-6)
