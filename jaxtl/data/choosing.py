"""Chooses what to train, validate and test on: splits as they are given, and what is left open, derived and noted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.data import cuts, groups
from jaxtl.data.corrections import NO_CORRECTIONS, Corrections, in_short
from jaxtl.data.dataset import Dataset, concatenate
from jaxtl.data.remarks import absent_classes, count_classes, quantities, several_in_words
from jaxtl.data.source import Source
from jaxtl.data.splits import canonical, parse, places, refuse_overlap, whole, without
from jaxtl.errors import UserError


@dataclass(frozen=True, eq=False)
class Splits:
    """What a run trains, validates and tests on, and remarks on how that was chosen, one line each.

    `changes` has what corrections changed in them, as `Corrections.changes` gives it.
    """

    train: Dataset
    val: Dataset
    test: Dataset | None
    notes: tuple[str, ...]
    changes: tuple[Mapping[str, str], ...] = ()


def choose_splits(source: Source, *, train: str = "", val: str = "", test: str = "", by_class: bool = True) -> Splits:
    """Chooses the examples to train, validate and test on; what is left open is derived and noted.

    Without `val`, the source's validation split serves, or else the last 10 % of train, which training then does
    without. A source without splits is cut 80 / 10 / 10, and with a `val` that is given, the rest 90 / 10. Each class
    is on every side then, if it has enough images: see `cuts.cut`, and what it promises where images are added. Groups
    stay whole (see `groups.sides`). Splits that are given are taken as they stand. With a fold to test on alone, such
    as "fold 3/5", the other folds train, but for a tenth of them that validates.

    Args:
      source: an open source.
      train: split to train on, in the split language; "" derives it.
      val: split to choose the best checkpoint by; "" derives it.
      test: split for the final metrics; "" is the source's test split, or none.
      by_class: whether what is derived has each class on every side; without it, as percentages alone say.

    Raises:
      UserError: a split is unknown or empty, two of them share examples or groups, train has one class only, or labels
        are quantities.
    """
    if len(source.classes) < 2:
        raise UserError(
            f"{source.uri} has one class only, {', '.join(source.classes)}; a classifier needs at least two",
            arguments=["source"],
        )
    _refuse_quantities(source)
    train = train or _other_folds(test)
    corrections, source = source.corrections, replace(source, corrections=NO_CORRECTIONS)
    notes = [*source.notes, *corrections.notes]
    known = {canonical(name) for name in source.split_names}
    if known == {"all"} and not train and not test:
        if by_class and not source.by_position:
            return _finish(source, "all", _cut_pool(source, val, notes), notes, corrections)
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
    folds = any(term.fold for term in parse(train))
    # Folds of all images have those of a validation split among them.
    if not val and "validation" in known and not (folds and set(_names_in(train)) != {"train"}):
        val = "validation"
    specs = {"train": train, "val": val, "test": test}
    given = _splits(source, specs)
    training, testing = given["train"], given.get("test")
    titled = {f"{argument} {spec!r}": given.get(argument) for argument, spec in specs.items()}
    refuse_overlap(titled)
    groups.refuse_divided(titled)
    if val:
        validating = given["val"]
    elif folds:
        training, validating = _tenth_of_folds(source, training, train, notes)
    else:
        val = "+".join(f"{name}[90%:]" for name in _names_in(train))
        validating, moved = _tenth(source, train, val, by_class=by_class and not source.by_position)
        training = without(training, validating, f"{train} without {val}")
        notes.append(
            f"{source.uri} has no validation split: {len(validating):,} examples of train ({val}) serve as one, "
            f"{len(training):,} remain to train on{_moved(moved)}"
        )
    refuse_overlap({f"train {train!r}": training, f"val {val!r}": validating, f"test {test!r}": testing})
    return _finish(source, train, {"train": training, "val": validating, "test": testing}, notes, corrections)


def _finish(
    source: Source, spec: str, found: Mapping[str, Dataset | None], notes: list[str], corrections: Corrections
) -> Splits:
    """Returns the splits, corrected, with what there is to say of them; `spec` is what trains."""
    changes = corrections.changes(found)
    chosen = {title: each and corrections.apply(each) for title, each in found.items()}
    train, val = chosen["train"], chosen["val"]
    assert train is not None
    assert val is not None
    for title, each in chosen.items():
        if each is not None and not len(each):
            raise UserError(f"all images of {title} of {source.uri} are excluded", arguments=["exclude"])
    counts = train.class_counts()
    if np.count_nonzero(counts) < 2:
        only = source.classes[int(counts.argmax())] if counts.any() else "none"
        raise UserError(
            f"split {spec!r} of {source.uri} has images of one class only, {only}; choose another split",
            arguments=["train"],
        )
    several = [several_in_words(train)] if train.several else []
    notes += in_short(changes)
    return Splits(train, val, chosen["test"], (*notes, *several, *absent_classes(chosen)), tuple(changes))


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
        pool = without(pool, val, f"all without {given}")
        groups.refuse_divided({f"val {given!r}": val, "the rest": pool})
        plain = cuts.TEST * (places(pool) >= 0.9)
        sides = cuts.TEST * (groups.sides(pool, val_from=0.9) != cuts.TRAIN)
    else:
        where = places(pool)
        plain = (where >= 0.8).astype(int) + (where >= 0.9)
        sides = groups.sides(pool, val_from=0.8, test_from=0.9)
        val = pool.take(np.flatnonzero(sides == cuts.VAL))
    train, test = (pool.take(np.flatnonzero(sides == side)) for side in (cuts.TRAIN, cuts.TEST))
    if not len(val):
        raise UserError(
            f"{source.uri} has one {_unit(pool)} of each class, too few to validate on: it takes two of each, and "
            "three for a test split too",
            arguments=["source"],
        )
    moved = int((sides != plain).sum())
    unit = _unit(pool)
    notes.append(f"{source.uri} has no splits, so the names of its {unit}s decide which side each is on{_moved(moved)}")
    if not len(test):
        notes.append(
            f"no test split: too few images ({count_classes(pool)}); of each class the first trains, the second "
            "validates, and only a third would test. There will be no test metrics"
        )
    return {"train": train, "val": val, "test": test if len(test) else None}


def _tenth(source: Source, train: str, spec: str, *, by_class: bool) -> tuple[Dataset, int]:
    """Returns a tenth of train to validate on, the same one for every share of it that trains; and how many moved."""
    if not by_class:
        return _splits(source, {"val": spec})["val"], 0
    there = concatenate([whole(name, source.splits, source.uri) for name in _names_in(train)])
    sides = groups.sides(there, val_from=0.9)
    if not sides.any():
        raise UserError(
            f"{source.uri} has no validation split, and in {train!r} one {_unit(there)} of each class, too few to "
            "take any away; add images, or set val",
            arguments=["val"],
        )
    return there.take(np.flatnonzero(sides)), int((sides != (places(there) >= 0.9)).sum())


def _tenth_of_folds(source: Source, training: Dataset, train: str, notes: list[str]) -> tuple[Dataset, Dataset]:
    """Returns what trains of the folds and what validates, a tenth of each class, and notes it."""
    sides = groups.sides(training, val_from=0.9)
    if not sides.any():
        raise UserError(
            f"in {train!r} of {source.uri} there is one {_unit(training)} of each class, too few to validate on; add "
            "images, or set val",
            arguments=["val"],
        )
    rest, val = (training.take(np.flatnonzero(sides == side)) for side in (cuts.TRAIN, cuts.VAL))
    whole = "" if training.groups is None else ", as whole groups stay together"
    share = f"{100 * len(val) / len(training):.0f} %{whole}"
    notes.append(
        f"{len(val):,} of {len(training):,} examples of {train!r} ({share}) choose the checkpoint, {len(rest):,} "
        "remain to train on"
    )
    return rest, val


def _other_folds(test: str) -> str:
    """Returns the split of the folds that a single fold leaves, "not fold 3/5"; "" of other splits."""
    terms = parse(test) if test else ()
    if len(terms) != 1 or terms[0].fold is None:
        return ""
    return f"{terms[0].name}[{terms[0].fold.others}]"


def _unit(dataset: Dataset) -> str:
    return "image" if dataset.groups is None else "group"


def _names_in(spec: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(term.name for term in parse(spec)))


def _moved(count: int) -> str:
    return f"; {count} of them moved so that no class is missing" if count else ""
