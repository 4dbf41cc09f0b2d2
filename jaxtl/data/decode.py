"""From the bytes of an image file to RGB pixels, and to the square that a model sees in evaluation."""

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from jaxtl.data.dataset import Encoded
from jaxtl.data.formats import formats, kind_of_bytes
from jaxtl.errors import UserError
from jaxtl.preprocessing import INTERPOLATIONS, Pixels

T = TypeVar("T")

RESAMPLING = {name: Image.Resampling(number) for name, number in INTERPOLATIONS.items()}
# A picture of 1 x 100,000,000 pixels is no bomb to Pillow until its shorter side is resized to that of a model.
_LONGEST_BY_SHORTEST = 200
_ORIENTATION_TAG = 0x0112
# How to undo each value of EXIF's orientation; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(UserError):
    """An image file that cannot be read; the message names it."""


def decode(
    encoded: Encoded, name: str = "image", *, min_side: int = 0, taken: tuple[str, ...] | None = None
) -> Image.Image:
    """Decodes an image to upright RGB, the first frame of an animation.

    EXIF orientation is applied, transparency is laid over white, and 16-bit grey keeps its upper 8 bits. Colour
    profiles are not applied, as they were not when the usual weights were trained.

    Args:
      encoded: bytes of a file in any format that Pillow reads, or pixels uint8 [H, W] or [H, W, 1 | 3 | 4].
      name: what to call the image in an error.
      min_side: a JPEG file may come at 1/2, 1/4 or 1/8 of its size as long as its shorter side keeps this many pixels,
        which is several times faster for photographs of many megapixels; 0 decodes in full.
      taken: names of Pillow for the formats that are tried, in this order; None for all that are read.

    Raises:
      ImageError: the image is broken, too large to be safe, or has pixels without a fixed range.
    """
    if isinstance(encoded, np.ndarray):
        return _from_array(encoded, name)

    def drafted(image: Image.Image) -> Image.Image:
        _draft(image, min_side)
        return _to_rgb(_upright(image))

    return _read(encoded, name, drafted, taken)


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Makes a picture of Pillow, perhaps not loaded yet, what `decode` makes of its file: upright RGB.

    Raises:
      ImageError: it cannot be loaded, or has pixels without a fixed range.
    """
    try:
        return _to_rgb(_upright(image))
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error


def size(encoded: Encoded, name: str = "image", *, min_side: int = 0) -> tuple[int, int]:
    """Returns the width and height in pixels that `decode` gives; of a file, only the header is read.

    Raises:
      ImageError: the header is broken.
    """
    if isinstance(encoded, np.ndarray):
        return encoded.shape[1], encoded.shape[0]

    def upright_size(image: Image.Image) -> tuple[int, int]:
        _draft(image, min_side)
        return image.size[::-1] if _orientation(image) >= 5 else image.size

    return _read(encoded, name, upright_size)


def identify(encoded: Encoded, name: str = "image") -> None:
    """Passes if the header is one of an image, and the file does not end before the image does.

    Only a JPEG, PNG or WebP file without its last bytes is decoded to see whether anything is missing: photographs of
    10 to 30 kB take 0.03 ms each, where decoding takes 0.5 to 0.8.

    Raises:
      ImageError: it is no image, or cut off.
    """
    if not isinstance(encoded, np.ndarray):
        _read(encoded, name, lambda image: None)
        if _seems_cut_off(encoded):
            decode(encoded, name)


def eval_view(image: Image.Image, pixels: Pixels) -> np.ndarray:
    """Resizes the shorter side to `pixels.resize` and crops the central square.

    Sizes and offsets follow torchvision's Resize and CenterCrop, as timm and most published figures do.

    Args:
      image: RGB.
      pixels: the size and the interpolation that the weights were trained with.

    Returns:
      uint8 [S, S, 3] with S = `pixels.size`.
    """
    image = resize_shorter(image, pixels.resize, RESAMPLING[pixels.interpolation])
    left, top = central_square(image.size, pixels.size)
    return np.asarray(image.crop((left, top, left + pixels.size, top + pixels.size)))


def resize_shorter(image: Image.Image, shorter: int, resampling: Image.Resampling) -> Image.Image:
    """Resizes so that the shorter side has `shorter` pixels; the longer one is rounded down, as torchvision does."""
    new = size_with_shorter(image.size, shorter)
    return image if new == image.size else image.resize(new, resampling)


def size_with_shorter(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Returns the width and height in pixels that `resize_shorter` gives an image of `size`."""
    short = min(size)
    return int(shorter * size[0] / short), int(shorter * size[1] / short)


def central_square(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the left and top pixel of the square that evaluation takes of an image of `size`, (width, height)."""
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def _read(encoded: bytes, name: str, use: Callable[[Image.Image], T], taken: tuple[str, ...] | None = None) -> T:
    if not encoded:
        raise ImageError(f"{name} is empty (0 bytes); replace it or remove it")
    try:
        with Image.open(io.BytesIO(encoded), formats=formats() if taken is None else taken) as image:
            if max(image.size) > _LONGEST_BY_SHORTEST * min(image.size):
                raise ImageError(f"has {image.width} x {image.height} pixels, too thin for a square; crop or remove it")
            return use(image)
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        kind = kind_of_bytes(encoded)
        if kind:
            raise ImageError(f"{name} is {kind}") from error
        raise ImageError(f"{name} is no image that Pillow reads: it begins with {_start(encoded)}") from error
    # Each of Pillow's decoders has errors of its own for a broken file: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error


def _seems_cut_off(encoded: bytes) -> bool:
    """Tells whether the mark is missing with which a file ends; behind it some programs write notes of their own."""
    if encoded.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in encoded[-1024:]
    if encoded.startswith(b"\x89PNG"):
        return b"IEND" not in encoded[-1024:]
    return encoded.startswith(b"RIFF") and len(encoded) < 8 + int.from_bytes(encoded[4:8], "little")


def _start(encoded: bytes) -> str:
    # As Python writes bytes, without the mark that only programmers know.
    return repr(encoded[:12]).removeprefix("b")


def _draft(image: Image.Image, min_side: int) -> None:
    if min_side and isinstance(image, JpegImageFile):
        image.draft(None, (min_side, min_side))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Broken EXIF says nothing about how the picture lies; the pixels are still good.
        return 1


def _upright(image: Image.Image) -> Image.Image:
    transpose = _UPRIGHT.get(_orientation(image))
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and leaves a white picture.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"has {image.mode} pixels (32 bits), whose range is not fixed; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name} is {pixels.dtype} {list(pixels.shape)}; expected uint8 [H, W] or [H, W, 1 | 3 | 4]")
    return _to_rgb(Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels))
