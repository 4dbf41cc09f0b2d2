"""What an evaluation has to show while a run trains: its confusion matrix, and its worst mistakes."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from jaxtl import data
from jaxtl.data.contact_sheet import contact_sheet
from jaxtl.errors import UserError
from jaxtl.evaluate.details import probabilities_of
from jaxtl.parallel.background import in_background
from jaxtl.report.confusion import confusion_pixels
from jaxtl.report.facts import Classified
from jaxtl.report.figure import import_matplotlib
from jaxtl.report.gallery import worst_mistakes
from jaxtl.train.log import Pictures

# Beyond so many classes a confusion matrix is no picture that tells anything, and takes long to draw.
_CLASSES = 200
# Logits past this number (64 MiB) are not fetched while a run trains.
_LOGITS = 2**24
# Mistakes that are shown, how many side by side, and the pixels of each.
_MISTAKES, _COLUMNS, _SIDE = 24, 6, 160
# So many letters of two names fit below one of them.
_LETTERS = 10


def begin_import() -> None:
    """Begins to import what draws, in a thread: it takes a second."""
    in_background(import_matplotlib)


def wants_logits(dataset: data.Dataset, classes: Sequence[str]) -> bool:
    """Tells whether an evaluation should give its logits: whether they are few enough to be fetched each time."""
    return len(dataset) * len(classes) <= _LOGITS


def pictures_of(
    accumulators: Mapping[str, np.ndarray], logits: np.ndarray | None, dataset: data.Dataset, *, sigmoid: bool
) -> Pictures:
    """Returns what draws the pictures of an evaluation on val, by name; none of what would show nothing.

    Args:
      accumulators: of the evaluation.
      logits: of its images [n, C], or None.
      dataset: the n images.
      sigmoid: whether each logit stands for a yes or no of its own.
    """
    found = {}
    if "confusion" in accumulators and len(dataset.classes) <= _CLASSES:
        found["val/confusion"] = partial(confusion_pixels, accumulators["confusion"].astype(int), dataset.classes)
    if logits is not None and np.isfinite(logits).all() and (logits.argmax(1) != dataset.labels).any():
        found["val/mistakes"] = partial(_mistakes, logits, dataset, sigmoid)
    return found


def _mistakes(logits: np.ndarray, dataset: data.Dataset, sigmoid: bool) -> np.ndarray:
    probabilities, _ = probabilities_of(dataset.labels, logits, sigmoid=sigmoid)
    predicted = logits.argmax(1)
    found = Classified(dataset.names, dataset.labels, predicted, probabilities)
    worst = worst_mistakes(found, limit=_MISTAKES)
    captions = [
        f"{_short(dataset.classes[dataset.labels[i]])} as {_short(dataset.classes[predicted[i]])}" for i in worst
    ]
    tiles = np.stack([_tile(dataset, int(i)) for i in worst])
    number = int((predicted != dataset.labels).sum())
    title = f"{number:,} of {len(dataset):,} images of val are wrong; the surest first: true class as predicted one"
    return np.asarray(contact_sheet(tiles, captions, columns=_COLUMNS, title=title).convert("RGB"))


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 2]}.."


def _tile(dataset: data.Dataset, index: int) -> np.ndarray:
    try:
        image = data.decode(dataset.read(index), dataset.where(index), min_side=_SIDE)
    except UserError:
        image = Image.new("RGB", (_SIDE, _SIDE))
    return np.asarray(ImageOps.fit(image.convert("RGB"), (_SIDE, _SIDE)))
