"""Many small images on one, each with a caption: to see at a glance what goes into a model."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Sides of a tile in pixels between which an image is shown as it is.
_SMALLEST, _LARGEST = 112, 256
_MARGIN, _TEXT, _TITLE = 8, 13, 16
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(images: np.ndarray, captions: Sequence[str], *, columns: int, title: str) -> Image.Image:
    """Returns a sheet of images in rows, each above its caption; one that is longer than its image ends in dots.

    Small images are enlarged by a whole factor, pixel by pixel, and images of more than 256 pixels are reduced.

    Args:
      images: uint8 [n, S, S, 3].
      captions: n lines.
      columns: images in a row.
      title: above them all.
    """
    if len(images) != len(captions) or not len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: give one for each, and an image at least")
    text, heading = ImageFont.load_default(_TEXT), ImageFont.load_default(_TITLE)
    tiles = [_tile(image) for image in images]
    side = tiles[0].width
    columns = min(columns, len(tiles))
    line, top = _TEXT + 5, 2 * _MARGIN + _TITLE
    across, down = side + _MARGIN, side + line + _MARGIN
    width, rows = _MARGIN + columns * across, -(-len(tiles) // columns)
    sheet = Image.new("RGB", (width, top + rows * down), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _fitted(title, heading, width - 2 * _MARGIN), _INK, heading)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, columns)
        place = (_MARGIN + column * across, top + row * down)
        sheet.paste(tile, place)
        draw.text((place[0], place[1] + side + 1), _fitted(caption, text, side), _INK, text)
    return sheet


def _tile(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.width > _LARGEST:
        return image.resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    factor = -(-_SMALLEST // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
