"""What an audit measures of each image: size, light, sharpness, a perceptual hash, digests. Each is decoded once."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import laplace

from jaxtl.data.dataset import Dataset, Encoded
from jaxtl.data.decode import ImageError, decode, size
from jaxtl.data.preloading import attempt_all

# Light and sharpness are measured where the longer side has at most so many pixels, so that no resolution is an edge.
_SIDE = 256
# Of the thumbnail whose frequencies are hashed, and of the lowest ones that are kept.
_THUMBNAIL, _FREQUENCIES = 32, 8
# Bits of the hash that change their sign in a mirror: of the odd frequencies along a row.
_ODD = np.arange(_FREQUENCIES**2) % _FREQUENCIES % 2 == 1
_BITS = 2 ** np.arange(_FREQUENCIES**2, dtype=np.uint64)
MIRROR = np.uint64((_ODD * _BITS).sum(dtype=np.uint64))
"""A hash XOR this is the hash of the mirrored image."""


@dataclass(frozen=True)
class Looks:
    """What is measured of one image.

    Attributes:
      size: width and height in pixels.
      file: digest of the file, or of the array.
      pixels: digest of the decoded pixels; of a large JPEG, of those at a reduced size.
      hash: 64 bits, the signs of the lowest frequencies of the grey image.
      thumbnail: grey, uint8 [32, 32].
      bright: of its brightest hundredth, the darkest, in [0, 1].
      contrast: the standard deviation of its grey values, in [0, 1].
      sharpness: the standard deviation of its Laplacian by that of its grey values.
    """

    size: tuple[int, int]
    file: bytes
    pixels: bytes
    hash: int
    thumbnail: np.ndarray
    bright: float
    contrast: float
    sharpness: float


def measure_all(dataset: Dataset, *, workers: int = 0) -> tuple[dict[int, Looks], dict[int, str]]:
    """Measures every image in threads; returns the looks and what is wrong with those that cannot be read, by index."""
    return attempt_all(range(len(dataset)), lambda i: _measure(dataset, i), workers)


def _measure(dataset: Dataset, i: int) -> Looks:
    return measure(dataset.read(i), dataset.where(i))


def measure(encoded: Encoded, name: str = "image") -> Looks:
    """Measures one image.

    Raises:
      ImageError: it cannot be decoded.
    """
    image = decode(encoded, name, min_side=_SIDE)
    content = encoded.tobytes() if isinstance(encoded, np.ndarray) else encoded
    pixels = np.asarray(image)
    if not pixels.size:
        raise ImageError(f"{name} has no pixels")
    grey = image.convert("L")
    thumbnail = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS))
    grey.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    light = np.asarray(grey, np.float32) / 255
    contrast = float(light.std())
    return Looks(
        size=size(encoded, name),
        file=hashlib.blake2b(content, digest_size=16).digest(),
        pixels=hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest(),
        hash=perceptual_hash(thumbnail),
        thumbnail=thumbnail,
        bright=float(np.quantile(light, 0.99)),
        contrast=contrast,
        sharpness=float(laplace(light).std() / max(contrast, 1e-3)),
    )


def perceptual_hash(grey: np.ndarray) -> int:
    """Returns the signs of the 8 x 8 lowest frequencies of a grey thumbnail [32, 32], as 64 bits.

    They stay under another size, compression, brightness and contrast. The first, of the mean, is always 0: it says
    nothing. Signs, not comparisons with the median as in the usual pHash, have a mirrored image differ in known bits.
    """
    lowest = dctn(grey.astype(np.float32), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES].ravel()
    signs = lowest > 0
    signs[0] = False
    return int((signs * _BITS).sum(dtype=np.uint64))
