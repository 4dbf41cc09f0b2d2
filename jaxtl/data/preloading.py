"""Looks at all images of a data set before training: to keep them in memory, or to find the broken ones."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import ImageError, decode, identify, size
from jaxtl.data.shared_memory import PixelStore
from jaxtl.errors import UserError

T = TypeVar("T")
# Images that one thread does in one go: handing over a task costs as much as reading a header.
_CHUNK = 32
# Images decoded between two looks at the memory they took.
_BLOCK = 2048
# Sets up to this size have every file checked even if they do not fit: some ten seconds.
_CHECKED = 50_000
# Broken images that an error names before it only counts the rest.
_NAMED = 10


class BrokenImages(UserError):
    """Images that cannot be read, all of them at once.

    Attributes:
      problems: index -> what is wrong with it, which begins with its path.
    """

    def __init__(self, problems: Mapping[int, str], message: str = ""):
        super().__init__(message or "\n".join(first_lines(list(problems.values()))), arguments=["skip_broken"])
        self.problems = dict(problems)


def first_lines(lines: Sequence[str]) -> list[str]:
    """Returns the first lines, and one with the number of the others."""
    return [*lines[:_NAMED], *([f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else [])]


def preload(
    dataset: Dataset, *, budget_bytes: int, min_side: int = 0, workers: int = 0, own: np.ndarray | None = None
) -> Dataset:
    """Decodes all images into memory, if they fit, so that they are decoded once and broken ones are found at once.

    The pixels lie in memory that reader processes see too, where the system has it: see `train_batches`.

    Args:
      dataset: images to keep.
      budget_bytes: what the decoded images may take, 3 bytes a pixel.
      min_side: large JPEG files may be decoded down to this shorter side, see `decode`; 0 decodes in full.
      workers: threads that decode; 0 is one for each core that the process may use.
      own: indices of this host's share, where several hosts share the set: only these are looked at now. Another image
        is decoded when it is asked for, and kept then; a later epoch may bring any of them to any host.

    Returns:
      The same examples, read from memory, or the data set as it was if they do not fit.

    Raises:
      BrokenImages: names them.
    """
    mine = list(range(len(dataset))) if own is None else sorted(own.tolist())
    # A sample of headers tells in milliseconds that a large set does not fit.
    sample = [mine[i] for i in np.unique(np.linspace(0, len(mine) - 1, min(len(mine), 64)).astype(int))]
    estimates = []
    for i in sample:
        # A broken one is named below, together with all others.
        with contextlib.suppress(UserError):
            width, height = size(dataset.read(i), dataset.where(i), min_side=min_side)
            estimates.append(3 * width * height)
    if estimates and np.mean(estimates) * len(dataset) > budget_bytes:
        if len(estimates) < len(sample) or len(mine) <= _CHECKED:
            check(dataset, workers=workers, own=own)
        return dataset
    kept: dict[int, np.ndarray] = {}
    broken: dict[int, str] = {}
    store, room = PixelStore(budget_bytes), budget_bytes

    def pixels(i: int) -> np.ndarray:
        return np.asarray(decode(dataset.read(i), dataset.where(i), min_side=min_side))

    for start in range(0, len(mine), _BLOCK):
        block = mine[start : start + _BLOCK]
        made, problems = attempt_all(block, lambda i: store.keep(pixels(i)), workers)
        kept, broken = kept | made, broken | problems
        room -= sum(image.nbytes for image in made.values())
        if room < 0:
            rest = mine[start + _BLOCK :]
            if len(rest) <= _CHECKED:
                broken |= attempt_all(rest, lambda i: identify(dataset.read(i), dataset.where(i)), workers)[1]
            break
    if broken:
        raise BrokenImages(broken)
    if room < 0:
        return dataset

    def read(i: int) -> np.ndarray:
        nonlocal room
        if i in kept:
            return kept[i]
        image = pixels(i)
        if image.nbytes <= room:  # Threads that look at the same time may overdraw it by an image or two.
            image, room = store.keep(image), room - image.nbytes
            kept[i] = image
        return image

    return replace(dataset, read=read)


def check(dataset: Dataset, *, workers: int = 0, own: np.ndarray | None = None) -> None:
    """Reads every image file, or those at the indices `own`, and looks at its beginning and its end.

    Raises:
      BrokenImages: files are missing, no images, or end too early.
    """
    indices = range(len(dataset)) if own is None else own.tolist()
    _, broken = attempt_all(indices, lambda i: identify(dataset.read(i), dataset.where(i)), workers)
    if broken:
        raise BrokenImages(broken)


def find_broken(dataset: Dataset, *, workers: int = 0) -> dict[int, str]:
    """Decodes every image once, and returns what is wrong with those that cannot be: index -> problem."""
    # At an eighth of its size a JPEG is read to its end, too, in a third of the time.
    # A file that cannot be opened at the moment is no broken image: that is an error of its own.
    return attempt_all(range(len(dataset)), lambda i: _decodes(dataset, i), workers, kind=ImageError)[1]


def _decodes(dataset: Dataset, i: int) -> None:
    decode(dataset.read(i), dataset.where(i), min_side=1)


def attempt_all(
    indices: Sequence[int], make: Callable[[int], T], workers: int = 0, kind: type[UserError] = UserError
) -> tuple[dict[int, T], dict[int, str]]:
    """Makes something of each index in threads; returns what was made, and what was wrong where `kind` was raised.

    Both are by index, in order.
    """

    def attempt(chunk: Iterable[int]) -> list[tuple[int, T | UserError]]:
        made: list[tuple[int, T | UserError]] = []
        for i in chunk:
            try:
                made.append((i, make(i)))
            except kind as error:
                made.append((i, error))
        return made

    chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
    with ThreadPoolExecutor(workers or cores(), thread_name_prefix="jaxtl-data") as executor:
        results = [result for made in executor.map(attempt, chunks) for result in made]
    good = {i: result for i, result in results if not isinstance(result, UserError)}
    return good, {i: str(result) for i, result in results if isinstance(result, UserError)}


def cores() -> int:
    """Returns the number of cores that this process may use, which containers set below that of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
