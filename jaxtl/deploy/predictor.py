"""Classifies image files: the same pixels as in training, a line for each file whatever befalls the others."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import data
from jaxtl.data.formats import is_image, is_photograph
from jaxtl.data.loader import EvalView
from jaxtl.deploy.fetch import fetch
from jaxtl.errors import UserError

# An image file, or the address of one.
Place = Path | str
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


def predict(
    paths: Iterable[Place],
    *,
    logits: Callable[[np.ndarray], np.ndarray],
    judge: Callable[[np.ndarray], Mapping[str, Any]],
    view: EvalView,
    batch_size: int = 32,
    workers: int = 4,
) -> Iterator[dict[str, Any]]:
    """Yields one dict for each file, in order.

    Args:
      paths: image files, or addresses of some.
      logits: views uint8 [B, ...] with B = batch_size -> float32 [B, C].
      judge: the logits [C] of an image -> what is said of it (see `jaxtl.deploy.judge.Judge`).
      view: an RGB image -> what of it is predicted, uint8 of one shape for all images.
      batch_size: rows of a batch; the last one is filled up with dummy images.
      workers: threads that decode.

    Yields:
      {"file", and what `judge` says}, or {"file", "error"} where a file is missing or no image.
    """
    with ThreadPoolExecutor(workers) as executor:
        for chunk in _batched(paths, batch_size):
            found = list(executor.map(read_view, chunk, repeat(view)))
            whole = [each for each in found if isinstance(each, np.ndarray)]
            dummies = [np.zeros_like(whole[0])] * (batch_size - len(whole)) if whole else []
            result = iter(logits(np.stack([*whole, *dummies])) if whole else ())
            for path, each in zip(chunk, found, strict=True):
                yield {"file": str(path), **({"error": each} if isinstance(each, str) else judge(next(result)))}


def _batched(items: Iterable[Place], size: int) -> Iterator[list[Place]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def read_view(place: Place, view: EvalView) -> np.ndarray | str:
    """Returns what `view` makes of an image, or why it cannot be read."""
    try:
        encoded = fetch(place) if isinstance(place, str) else place.read_bytes()
        return view(data.decode(encoded, "the file"))
    except OSError as error:
        return error.strerror or str(error)
    except UserError as error:
        return str(error)
