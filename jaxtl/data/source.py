"""Opens the images that a small URI points at, and chooses what to train, validate and test on."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.data import cuts
from jaxtl.data.dataset import Dataset, concatenate
from jaxtl.data.preloading import BrokenImages, find_broken
from jaxtl.data.remarks import absent_classes, count_classes, quantities, several_in_words
from jaxtl.data.sources import folder, jsonl, npz, table, tfds
from jaxtl.data.splits import canonical, parse, positions, select, whole
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
    """

    uri: str
    classes: tuple[str, ...]
    splits: Mapping[str, Dataset]
    by_position: bool = False
    notes: tuple[str, ...] = ()

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


def choose_splits(source: Source, *, train: str = "", val: str = "", test: str = "", by_class: bool = True) -> Splits:
    """Chooses the examples to train, validate and test on; what is left open is derived and noted.

    Without `val`, the source's validation split serves, or else the last 10 % of train, which training then does
    without. A source without splits is cut 80 / 10 / 10, and with a `val` that is given, the rest 90 / 10. Each class
    is on every side then, if it has enough images: see `cuts.cut`, and what it promises where images are added. Splits
    that are given are taken as they stand.

    Args:
      source: an open source.
      train: split to train on, in the split language; "" derives it.
      val: split to choose the best checkpoint by; "" derives it.
      test: split for the final metrics; "" is the source's test split, or none.
      by_class: whether what is derived has each class on every side; without it, as percentages alone say.

    Raises:
      UserError: a split is unknown or empty, two of them share examples, train has one class only, or labels are
        quantities.
    """
    if len(source.classes) < 2:
        raise UserError(
            f"{source.uri} has one class only, {', '.join(source.classes)}; a classifier needs at least two",
            arguments=["source"],
        )
    _refuse_quantities(source)
    notes = list(source.notes)
    known = {canonical(name) for name in source.split_names}
    if known == {"all"} and not train and not test:
        if by_class and not source.by_position:
            return _finish(source, "all", _cut_pool(source, val, notes), notes)
        cuts_by_share = ("all[:80%]", val or "all[80%:90%]", "all[90%:]")
        notes.append("{} has no splits: train is {}, val is {}, test is {}".format(source.uri, *cuts_by_share))
        train, val, test = cuts_by_share
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
    given = _splits(source, {"train": train, "val": val, "test": test})
    training, testing = given["train"], given.get("test")
    if val:
        validating = given["val"]
    else:
        val = "+".join(f"{name}[90%:]" for name in _names_in(train))
        validating, moved = _tenth(source, train, val, by_class=by_class and not source.by_position)
        training = _without(training, validating, f"{train} without {val}")
        notes.append(
            f"{source.uri} has no validation split: {len(validating):,} examples of train ({val}) serve as one, "
            f"{len(training):,} remain to train on{_moved(moved)}"
        )
    _refuse_overlap({f"train {train!r}": training, f"val {val!r}": validating, f"test {test!r}": testing})
    return _finish(source, train, {"train": training, "val": validating, "test": testing}, notes)


def _finish(source: Source, spec: str, chosen: Mapping[str, Dataset | None], notes: list[str]) -> Splits:
    """Returns the splits with what there is to say of their classes; `spec` is what trains."""
    train, val = chosen["train"], chosen["val"]
    assert train is not None
    assert val is not None
    counts = train.class_counts()
    if np.count_nonzero(counts) < 2:
        only = source.classes[int(counts.argmax())] if counts.any() else "none"
        raise UserError(
            f"split {spec!r} of {source.uri} has images of one class only, {only}; choose another split",
            arguments=["train"],
        )
    several = [several_in_words(train)] if train.several else []
    return Splits(train, val, chosen["test"], (*notes, *several, *absent_classes(chosen)))


def _refuse_quantities(source: Source) -> None:
    if source.by_position:
        return  # Its classes are declared, and reading all labels takes a while.
    if any(dataset.several for dataset in source.splits.values()):
        return  # A quantity is one value an image.
    labels = [source.classes[label] for dataset in source.splits.values() for label in dataset.labels]
    problem = quantities(labels)
    if problem:
        raise UserError(f"{source.uri}: {problem}", arguments=["source"])


def _splits(source: Source, specs: Mapping[str, str]) -> dict[str, Dataset]:
    """Returns the examples of the splits that are not ""; an error names all that cannot be, by their arguments."""
    found, problems = {}, []
    for argument, spec in specs.items():
        try:
            if spec:
                found[argument] = source.split(spec)
        except UserError as error:
            problems.append(UserError(str(error), arguments=(argument,)))
    if problems:
        raise UserError.join(problems)
    return found


def _cut_pool(source: Source, given: str, notes: list[str]) -> dict[str, Dataset | None]:
    """Cuts a source without splits, and notes how many images of which classes fell on which side."""
    pool = source.split("all")
    if given:
        val = _splits(source, {"val": given})["val"]
        pool = _without(pool, val, f"all without {given}")
        places = positions(pool.names)
        plain = cuts.TEST * (places >= 0.9)
        sides = cuts.TEST * (_sides(pool, places, val_from=0.9) != cuts.TRAIN)
    else:
        places = positions(pool.names)
        plain = (places >= 0.8).astype(int) + (places >= 0.9)
        sides = _sides(pool, places, val_from=0.8, test_from=0.9)
        val = pool.take(np.flatnonzero(sides == cuts.VAL))
    train, test = (pool.take(np.flatnonzero(sides == side)) for side in (cuts.TRAIN, cuts.TEST))
    if not len(val):
        raise UserError(
            f"{source.uri} has one image of each class, too few to validate on: it takes two of each, and three for a "
            "test split too",
            arguments=["source"],
        )
    moved = int((sides != plain).sum())
    notes.append(f"{source.uri} has no splits, so the names of its images decide which side each is on{_moved(moved)}")
    if not len(test):
        notes.append(
            f"no test split: too few images ({count_classes(pool)}); of each class the first trains, the second "
            "validates, and only a third would test. There will be no test metrics"
        )
    return {"train": train, "val": val, "test": test if len(test) else None}


def _sides(pool: Dataset, places: np.ndarray, *, val_from: float, test_from: float | None = None) -> np.ndarray:
    """Returns the side of each image, so that each class is on every side as far as it can be."""
    cut = cuts.cut_several if pool.several else cuts.cut
    return cut(pool.labels, places, val_from=val_from, test_from=test_from)


def _tenth(source: Source, train: str, spec: str, *, by_class: bool) -> tuple[Dataset, int]:
    """Returns a tenth of train to validate on, the same one for every share of it that trains; and how many moved."""
    if not by_class:
        return _splits(source, {"val": spec})["val"], 0
    there = concatenate([whole(name, source.splits, source.uri) for name in _names_in(train)])
    places = positions(there.names)
    sides = _sides(there, places, val_from=0.9)
    if not sides.any():
        raise UserError(
            f"{source.uri} has no validation split, and in {train!r} one image of each class, too few to take any "
            "away; add images, or set val",
            arguments=["val"],
        )
    return there.take(np.flatnonzero(sides)), int((sides != (places >= 0.9)).sum())


def _names_in(spec: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(term.name for term in parse(spec)))


def _moved(count: int) -> str:
    return f"; {count} of them moved so that no class is missing" if count else ""


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
        raise UserError("\n".join(problems), arguments=["train", "val", "test"])
