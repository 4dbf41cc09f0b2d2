"""Small pictures of images for pages."""

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.report.page import image_uri

# The longer side of a picture.
_SIDE = 160


def thumbnail(dataset: data.Dataset, index: int) -> str:
    """Returns an image as the address of itself; "" where it cannot be read."""
    try:
        return image_uri(data.decode(dataset.read(index), dataset.where(index), min_side=_SIDE), side=_SIDE, quality=70)
    except UserError:
        return ""
