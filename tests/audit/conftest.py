import io

import numpy as np
import pytest
from PIL import Image, ImageFilter


@pytest.fixture
def photograph():
    """Draws an image with much of everything: blobs of many sizes, the same for a seed."""

    def draw(seed, size=(120, 90)):
        rng = np.random.default_rng(seed)
        noise = Image.fromarray(rng.integers(0, 256, (size[1] // 15, size[0] // 15, 3), dtype=np.uint8))
        blobs = np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 12, (*blobs.shape[:2], 1))
        return Image.fromarray(np.clip(blobs + grain, 0, 255).astype(np.uint8))

    return draw


@pytest.fixture
def jpeg():
    def encode(image, quality=90):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()

    return encode


@pytest.fixture
def blurred():
    return lambda image: image.filter(ImageFilter.GaussianBlur(4))
