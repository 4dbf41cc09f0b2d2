"""From the bytes that a client sent, or an address, to the view that is predicted, in threads beside the server."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from jaxtl.data.decode import decode
from jaxtl.data.formats import formats, kind_of_bytes
from jaxtl.deploy.fetch import fetch
from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.serve.limits import Limits
from jaxtl.errors import UserError

# Decoders of rare formats are where Pillow's errors are; nobody sends photographs in them.
_TAKEN = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"}
# Fetching waits for others, decoding for a core.
_FETCHERS = 8


class Reader:
    """Reads images for a predictor, within limits."""

    def __init__(self, predictor: Predictor, limits: Limits, *, private_urls: bool):
        """Takes the predictor, and whether addresses of this machine and its network are fetched."""
        self._predictor, self._limits, self._private = predictor, limits, private_urls
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="jaxtl-fetch")

    async def fetch(self, address: str) -> bytes | str:
        """Returns the bytes of the image that lies at an address, or why there are none."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._fetchers, self._fetch, address)
        except UserError as error:
            return str(error)

    async def view(self, encoded: bytes) -> np.ndarray | str:
        """Returns the view of an image, or why there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._predictor.readers, self._view, encoded)

    def close(self) -> None:
        """Ends the threads that fetch."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, address: str) -> bytes:
        seconds, limit = self._limits.receive_s, self._limits.body_bytes
        return fetch(address, patience=seconds, seconds=seconds, limit=limit, public_only=not self._private)

    def _view(self, encoded: bytes) -> np.ndarray | str:
        if obstacle := self._obstacle(encoded):
            return obstacle
        try:
            # In the same formats as its size was read: a file may be of two, with another size in each.
            return self._predictor.view(decode(encoded, "the file", taken=_taken()))
        except UserError as error:
            return str(error)

    def _obstacle(self, encoded: bytes) -> str:
        """Returns why an image is not decoded, by its header; "" where nothing is wrong so far."""
        try:
            with Image.open(io.BytesIO(encoded), formats=_taken()) as image:
                width, height = image.size
        except Image.UnidentifiedImageError:
            kind = kind_of_bytes(encoded) or f"none of {', '.join(_taken())}, which are taken"
            return f"the file is {kind}" if encoded else "the file is empty (0 bytes)"
        except MemoryError:
            raise
        except Exception as error:
            return f"the file cannot be decoded: {error}"
        if width * height > self._limits.pixels:
            return (
                f"the image has {width:,} x {height:,} pixels, more than the {self._limits.megapixels:g} million that "
                "are taken: send it smaller"
            )
        return ""


def _taken() -> tuple[str, ...]:
    return tuple(name for name in formats() if name in _TAKEN)
