"""Where images come from: source, split, decode, augment, batch."""

from jaxtl.data.augment import CROPS, Augmentation, FixedView, RandomView, train_view
from jaxtl.data.choosing import Splits, choose_splits
from jaxtl.data.corrections import read_corrections
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import ImageError, decode, eval_view
from jaxtl.data.loader import Reading, eval_batches, train_batches, view_batches
from jaxtl.data.preloading import BrokenImages, check, find_broken, first_lines, preload
from jaxtl.data.reader_processes import READERS, Reader
from jaxtl.data.remarks import shared_images
from jaxtl.data.rows import own_rows
from jaxtl.data.source import Source, open_source, without_broken
from jaxtl.data.sources.tfds import prepare

__all__ = [
    "CROPS",
    "READERS",
    "Augmentation",
    "BrokenImages",
    "Dataset",
    "FixedView",
    "ImageError",
    "RandomView",
    "Reader",
    "Reading",
    "Source",
    "Splits",
    "check",
    "choose_splits",
    "decode",
    "eval_batches",
    "eval_view",
    "find_broken",
    "first_lines",
    "open_source",
    "own_rows",
    "preload",
    "prepare",
    "read_corrections",
    "shared_images",
    "train_batches",
    "train_view",
    "view_batches",
    "without_broken",
]
