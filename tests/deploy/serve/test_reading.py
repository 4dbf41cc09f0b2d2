"""What is done with the bytes of an image, without a server."""

import asyncio
import struct

from serve_client import make_predictor

from jaxtl.data.decode import decode
from jaxtl.deploy.serve import reading
from jaxtl.deploy.serve.limits import Limits


def of_two_formats():
    """Returns a TGA image of 8 x 8 grey pixels that is a cursor of 2000 x 1000 black ones, too.

    Both begin with 0, 0, 2, 0, as does HEIC whose first box has 512 bytes.
    """
    cursor = struct.pack("<HBBBBHHII", 1, 0, 0, 0, 0, 0, 8, 24 << 16 | 8, 1000)
    picture = struct.pack("<IiiHHIIiiII", 40, 2000, 2 * 1000, 1, 1, 0, 0, 0, 0, 0, 0)
    file = b"\x00\x00\x02\x00" + cursor + bytes([200] * 188)  # TGA's pixels begin with the last bytes of `cursor`.
    return file.ljust(1000, b"\x00") + picture + bytes(8 + 2000 * 1000 // 8 + 1000 * 8)


def test_an_image_is_decoded_in_the_format_in_which_its_size_was_read(monkeypatch):
    image = of_two_formats()
    assert decode(image).size == (2000, 1000)
    assert decode(image, taken=("PNG", "TGA")).size == (8, 8)
    monkeypatch.setattr(reading, "_TAKEN", {"PNG", "TGA"})  # TGA stands for HEIC, which Pillow reads not by itself.
    reader = reading.Reader(make_predictor(), Limits(megapixels=0.1), private_urls=False)
    try:
        view = asyncio.run(reader.view(image))
    finally:
        reader.close()
    assert view[:-1].tolist() == [[[200] * 3] * 8] * 7  # TGA begins with its last row.
