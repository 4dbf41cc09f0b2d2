"""What may be given to be predicted: files, folders, addresses, and images that are in memory already."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from jaxtl.data.decode import decode, upright_rgb
from jaxtl.data.formats import is_image, is_photograph
from jaxtl.data.loader import EvalView
from jaxtl.deploy.fetch import fetch, is_address
from jaxtl.errors import UserError

# An image file, or the address of one.
Place: TypeAlias = Path | str
# One image: where it lies, its pixels uint8 [H, W, 3], a picture of Pillow, or the bytes of a file.
# Of a list, also why one of it is none of these.
Item: TypeAlias = Place | np.ndarray | Image.Image | bytes | UserError
# What operating systems leave in every folder; nobody means it.
_DROPPINGS = {"thumbs.db", "desktop.ini", ".ds_store", ".localized"}


@dataclass(frozen=True)
class Found:
    """What lies in files and folders.

    Attributes:
      images: to predict, in order. A photograph in a format that is not read is among them: its line says so.
      others: the files of folders that are no images.
    """

    images: tuple[Place, ...]
    others: tuple[Path, ...]


def find_images(places: Iterable[Place]) -> Found:
    """Takes files and addresses as they are, and of each folder the images below it, by name."""
    images: list[Place] = []
    others: list[Path] = []
    for place in places:
        if isinstance(place, str) or not place.is_dir():
            images.append(place)
            continue
        for file in sorted(_files_below(place)):
            taken = is_image(file) or is_photograph(file)
            (images if taken else others).append(file)
    return Found(tuple(images), tuple(others))


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from error

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a folder above would be walked for ever.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            # "._photo.jpg" is what macOS writes beside photo.jpg on foreign disks.
            if name.lower() not in _DROPPINGS and not name.startswith("._"):
                yield Path(parent, name)


def to_place(text: str | os.PathLike[str]) -> Place:
    """Returns the path that a text is, or the text where it is an address."""
    return text if isinstance(text, str) and is_address(text) else Path(text)


def to_items(given: Any) -> tuple[list[Item], bool]:
    """Returns the images that are meant, and whether it is one that was given by itself.

    Args:
      given: a file, an address, bytes of a file, a picture of Pillow, uint8 [H, W], [H, W, 1 | 3 | 4] or
        [B, H, W, 3]; a folder, whose images come by name; or any iterable of all these.

    Raises:
      UserError: it is something else, or a folder without images. In a list, what is no image stays, for its entry to
        say so.
    """
    if isinstance(given, (str, os.PathLike)):
        place = to_place(given)
        if isinstance(place, str) or not place.is_dir():
            return [place], True
        found = find_images([place])
        if not found.images:
            raise UserError(f"there is no image file in {place}: give a folder of photographs, or image files.")
        return list(found.images), False
    if isinstance(given, (bytes, bytearray, memoryview)):
        return [bytes(given)], True
    if isinstance(given, Image.Image):
        return [given], True
    if hasattr(given, "__array__"):
        return _rows(np.asarray(given))
    if not isinstance(given, Iterable):
        raise UserError(
            f"{type(given).__name__} is no image: give a file, an address, a picture of Pillow, bytes, uint8 "
            "[H, W, 3] or [B, H, W, 3], a folder, or a list of them."
        )
    return [item for each in given for item in _of_list(each)], False


def _of_list(given: Any) -> list[Item]:
    try:
        return to_items(given)[0]
    except UserError as error:
        return [error]


def _rows(pixels: np.ndarray) -> tuple[list[Item], bool]:
    if not pixels.size:
        raise UserError(f"the array is {pixels.dtype} {list(pixels.shape)}, and holds no pixels.")
    if pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[3] == 3:
        return list(pixels), False
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))):
        return [pixels], True
    advice = ""
    if pixels.dtype != np.uint8:
        advice = "; pixels are whole numbers from 0 to 255, so that jaxtl normalises them as the weights expect"
    elif pixels.ndim in (3, 4) and pixels.shape[-3] in (1, 3):
        advice = "; channels come last: transpose it"
    raise UserError(
        f"the array is {pixels.dtype} {list(pixels.shape)}, expected uint8 [H, W, 3] or [B, H, W, 3] (one image may be "
        f"[H, W], [H, W, 1], or with transparency [H, W, 4]){advice}."
    )


def read_view(item: Item, view: EvalView) -> np.ndarray | str:
    """Returns what `view` makes of an image, or why it cannot be read."""
    try:
        if isinstance(item, UserError):
            return str(item)
        if isinstance(item, Image.Image):
            return view(upright_rgb(item, "the image"))
        if isinstance(item, np.ndarray):
            return view(decode(item, "the image"))
        if isinstance(item, bytes):
            return view(decode(item, "the file"))
        encoded = fetch(item) if isinstance(item, str) else item.read_bytes()
        return view(decode(encoded, "the file"))
    except OSError as error:
        return error.strerror or str(error)
    except UserError as error:
        return str(error)
