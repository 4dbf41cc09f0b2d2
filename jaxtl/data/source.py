"""Opens the images that a small URI points at, and chooses what to train, validate and test on."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.sources import folder, npz, table, tfds
from jaxtl.data.splits import canonical, parse, select
from jaxtl.errors import UserError

FORMS = "tfds:NAME[/CONFIG], folder:DIR, csv:FILE or npz:FILE"


@dataclass(frozen=True, eq=False)
class Source:
    """Images with labels, in named splits.

    Attributes:
      uri: where they come from, as it was given.
      classes: class names, the same for all splits.
      splits: the whole splits by name; a source without splits has one, called "all".
      by_position: slices of a split are ranges of positions (TFDS) instead of ranges of a hash.
    """

    uri: str
    classes: tuple[str, ...]
    splits: Mapping[str, Dataset]
    by_position: bool = False

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.splits)

    def split(self, spec: str) -> Dataset:
        """Returns the examples of a split such as "train", "train[:90%]", "train[:100]" or "train+test".

        Raises:
          UserError: the split cannot be read, is unknown, or is empty.
        """
        return select(spec, self.splits, by_position=self.by_position, source=self.uri)


@dataclass(frozen=True, eq=False)
class Splits:
    """What a run trains, validates and tests on, and remarks on how that was chosen, one line each."""

    train: Dataset
    val: Dataset
    test: Dataset | None
    notes: tuple[str, ...]


def open_source(uri: str, *, data_dir: str = "") -> Source:
    """Opens a source of labelled images; images themselves are read later, one by one.

    Args:
      uri: tfds:NAME[/CONFIG], folder:DIR, csv:FILE or npz:FILE.
      data_dir: where TFDS keeps prepared data sets; "" is its default, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: what is missing or malformed there, all problems at once.
    """
    kind, _, location = uri.partition(":")
    readers = {"folder": folder.read_folder, "csv": table.read_csv, "npz": npz.read_npz}
    if not location or kind not in {"tfds", *readers}:
        near = difflib.get_close_matches(kind, ["tfds", *readers], n=1)
        hint = f"; did you mean {near[0]}:{location or '...'}" if near and kind not in {"tfds", *readers} else ""
        raise UserError(f"data source {uri!r} is none of {FORMS}{hint}")
    splits: Mapping[str, Dataset]
    if kind == "tfds":
        classes, splits = tfds.read_tfds(location, data_dir=data_dir)
    else:
        splits = readers[kind](location)
        classes = next(iter(splits.values())).classes
    if len(classes) < 2:
        raise UserError(f"{uri} has one class only, {', '.join(classes)}; a classifier needs at least two")
    return Source(uri=uri, classes=classes, splits=splits, by_position=kind == "tfds")


def choose_splits(source: Source, *, train: str = "", val: str = "", test: str = "") -> Splits:
    """Chooses the examples to train, validate and test on; what is left open is derived and noted.

    Without `val`, the source's validation split serves, or else the last 10 % of train, which training then does
    without. A source without splits is cut 80 / 10 / 10.

    Args:
      source: an open source.
      train: split to train on, in the split language; "" derives it.
      val: split to choose the best checkpoint by; "" derives it.
      test: split for the final metrics; "" is the source's test split, or none.

    Raises:
      UserError: a split is unknown or empty, two of them share examples, or train has one class only.
    """
    notes = []
    known = {canonical(name) for name in source.split_names}
    if known == {"all"} and not train and not test:
        cuts = ("all[:80%]", val or "all[80%:90%]", "all[90%:]")
        notes.append(f"{source.uri} has no splits: train is {cuts[0]}, val is {cuts[1]}, test is {cuts[2]}")
        train, val, test = cuts
    if not train:
        if "train" not in known:
            raise UserError(
                f"{source.uri} has no split 'train', it has {', '.join(source.split_names)}; set train",
                arguments=["train"],
            )
        train = "train"
    if not test and "test" in known:
        test = "test"
    if not test:
        notes.append(f"{source.uri} has no test split: there will be no test metrics")
    if not val and "validation" in known:
        val = "validation"
    training = source.split(train)
    if val:
        validating = source.split(val)
    else:
        val = "+".join(dict.fromkeys(f"{term.name}[90%:]" for term in parse(train)))
        validating = source.split(val)
        training = _without(training, validating, f"{train} without {val}")
        notes.append(
            f"{source.uri} has no validation split: {len(validating)} examples of train ({val}) serve as one, "
            f"{len(training)} remain to train on"
        )
    testing = source.split(test) if test else None
    if len(np.unique(training.labels)) < 2:
        only = source.classes[training.labels[0]]
        raise UserError(f"split {train!r} of {source.uri} has images of one class only, {only}; choose another split")
    _refuse_overlap({f"train {train!r}": training, f"val {val!r}": validating, f"test {test!r}": testing})
    chosen = {"train": training, "val": validating, "test": testing}
    return Splits(training, validating, testing, (*notes, *_absent_classes(chosen)))


def _without(dataset: Dataset, others: Dataset, what: str) -> Dataset:
    taken = set(others.names)
    rest = dataset.take(np.array([i for i, name in enumerate(dataset.names) if name not in taken], dtype=np.int64))
    if not len(rest):
        raise UserError(f"split {what} leaves nothing to train on; set val", arguments=["val"])
    return rest


def _refuse_overlap(datasets: Mapping[str, Dataset | None]) -> None:
    names = {title: set(dataset.names) for title, dataset in datasets.items() if dataset is not None}
    problems = []
    for i, first in enumerate(names):
        for second in list(names)[i + 1 :]:
            shared = sorted(names[first] & names[second])
            if shared:
                problems.append(
                    f"{first} and {second} share {len(shared)} examples (first: {', '.join(shared[:3])}); "
                    "metrics on seen examples mean nothing, so choose splits that do not overlap"
                )
    if problems:
        raise UserError("\n".join(problems))


def _absent_classes(datasets: Mapping[str, Dataset | None]) -> list[str]:
    notes = []
    for title, dataset in datasets.items():
        if dataset is None:
            continue
        counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
        absent = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
        if absent:
            more = ", ..." if len(absent) > 5 else ""
            notes.append(
                f"{title} has no image of {len(absent)} of {len(counts)} classes: {', '.join(absent[:5])}{more}"
            )
    return notes
