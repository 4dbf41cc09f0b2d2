"""Opens the images that a small URI points at."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.data.corrections import NO_CORRECTIONS, Corrections
from jaxtl.data.dataset import Dataset
from jaxtl.data.preloading import BrokenImages, find_broken
from jaxtl.data.sources import folder, jsonl, npz, table, tfds
from jaxtl.data.splits import select
from jaxtl.errors import UserError

FORMS = "tfds:NAME[/CONFIG], folder:DIR, csv:FILE, jsonl:FILE or npz:FILE"


@dataclass(frozen=True, eq=False)
class Source:
    """Images with labels, in named splits.

    Attributes:
      uri: where they come from, as it was given.
      classes: class names, the same for all splits.
      splits: the whole splits by name; a source without splits has one, called "all".
      by_position: slices of a split are ranges of positions (TFDS) instead of ranges of a hash.
      notes: remarks on what was found there, one line each.
      corrections: what a person put right in it. They come after an image's side is found, so they move no other.
    """

    uri: str
    classes: tuple[str, ...]
    splits: Mapping[str, Dataset]
    by_position: bool = False
    notes: tuple[str, ...] = ()
    corrections: Corrections = NO_CORRECTIONS

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.splits)

    def split(self, spec: str) -> Dataset:
        """Returns the examples of a split such as "train", "train[:90%]", "train[:100]" or "train+test".

        Raises:
          UserError: the split cannot be read, is unknown, or is empty.
        """
        chosen = self.corrections.apply(select(spec, self.splits, by_position=self.by_position, source=self.uri))
        if not len(chosen):
            raise UserError(f"all images of split {spec!r} of {self.uri} are excluded", arguments=["exclude"])
        return chosen


def open_source(uri: str, *, data_dir: str = "") -> Source:
    """Opens a source of labelled images; images themselves are read later, one by one.

    Args:
      uri: tfds:NAME[/CONFIG], folder:DIR, csv:FILE, jsonl:FILE or npz:FILE; csv:FILE.jsonl is jsonl:FILE.jsonl.
      data_dir: where TFDS keeps prepared data sets; "" is its default, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: what is missing or malformed there, all problems at once.
    """
    kind, _, location = uri.partition(":")
    notes: list[str] = []
    readers = {
        "folder": lambda directory: folder.read_folder(directory, notes),
        "csv": jsonl.read_jsonl if location.endswith(".jsonl") else table.read_csv,
        "jsonl": jsonl.read_jsonl,
        "npz": npz.read_npz,
    }
    if not location or kind not in {"tfds", *readers}:
        near = difflib.get_close_matches(kind, ["tfds", *readers], n=1)
        hint = f"; did you mean {near[0]}:{location or '...'}" if near and kind not in {"tfds", *readers} else ""
        raise UserError(f"data source {uri!r} is none of {FORMS}{hint}", arguments=["source"])
    splits: Mapping[str, Dataset]
    if kind == "tfds":
        classes, splits = tfds.read_tfds(location, data_dir=data_dir)
    else:
        splits = readers[kind](location)
        classes = next(iter(splits.values())).classes
    return Source(uri=uri, classes=classes, splits=splits, by_position=kind == "tfds", notes=tuple(notes))


def without_broken(source: Source, *, workers: int = 0) -> Source:
    """Returns the source without the images that cannot be decoded, which its notes list. Each is decoded once.

    Raises:
      BrokenImages: a split has no others.
    """
    splits: dict[str, Dataset] = {}
    lines: list[str] = []
    for name, dataset in source.splits.items():
        broken = find_broken(dataset, workers=workers)
        lines += broken.values()
        splits[name] = dataset.take(np.array([i for i in range(len(dataset)) if i not in broken], np.int64))
        if len(broken) and not len(splits[name]):
            raise BrokenImages(broken)
    if not lines:
        return source
    note = "\n  ".join([f"{len(lines)} images cannot be read, and are left out:", *lines])
    return replace(source, splits=splits, notes=(*source.notes, note))
