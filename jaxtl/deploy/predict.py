"""Classifies image files: the same pixels as in training, a line for each file whatever befalls the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields files as they are, and for each folder the image files below it, by name."""
    extensions = set(Image.registered_extensions())
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in extensions and file.is_file())
        else:
            yield path


def predict(
    paths: Iterable[Path],
    *,
    probabilities: Callable[[np.ndarray], np.ndarray],
    classes: Sequence[str],
    pixels: Pixels,
    batch_size: int = 32,
    workers: int = 4,
) -> Iterator[dict[str, Any]]:
    """Yields one dict for each file, in order.

    Args:
      paths: image files.
      probabilities: uint8 [B, S, S, 3] with B = batch_size -> float32 [B, C].
      classes: names of the C classes.
      pixels: how images must be prepared.
      batch_size: rows of a batch; the last one is filled up with blank images.
      workers: threads that decode.

    Yields:
      {"file", "class", "probability", "top5": [{"class", "probability"}, ...]}, or {"file", "error"} where a file is
      missing or no image.
    """
    with ThreadPoolExecutor(workers) as executor:
        for chunk in _batched(paths, batch_size):
            views = list(executor.map(_view, chunk, repeat(pixels)))
            blank = np.zeros((pixels.size, pixels.size, 3), np.uint8)
            rows = [view if isinstance(view, np.ndarray) else blank for view in views]
            result = probabilities(np.stack(list(chain(rows, repeat(blank, batch_size - len(rows))))))
            for path, view, row in zip(chunk, views, result[: len(chunk)], strict=True):
                yield _line(path, row, classes) if isinstance(view, np.ndarray) else {"file": str(path), "error": view}


def _batched(items: Iterable[Path], size: int) -> Iterator[list[Path]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _view(path: Path, pixels: Pixels) -> np.ndarray | str:
    try:
        return data.eval_view(data.decode(path.read_bytes(), "the file"), pixels)
    except OSError as error:
        return error.strerror or str(error)
    except UserError as error:
        return str(error)


def _line(path: Path, row: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    best = np.argsort(-row, kind="stable")[:5]
    top5 = [{"class": classes[i], "probability": round(float(row[i]), 6)} for i in best]
    return {"file": str(path), **top5[0], "top5": top5}
