"""Corrections of a source by hand: a table that says which images to leave out, and which labels to replace.

The table is that of an audit, with its column `action` filled in; or any other with the columns image and action.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.remarks import few
from jaxtl.errors import UserError, nearest

COLUMNS = ("image", "split", "label", "problem", "detail", "suggestion", "action")
EXCLUDE, KEEP = "exclude", "keep"
# Between the labels of an image that has several.
SEPARATOR = ";"
# Spreadsheets of some countries separate columns by semicolons.
_DELIMITERS = (",", ";", "\t")
# Rows or names that a message shows before it only counts the rest.
_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """A row of a table with something to do: its line, the image, the label that it had there, and the action."""

    line: int
    image: str
    label: str | None
    action: str


@dataclass(frozen=True)
class Corrections:
    """What is put right in the images of a source, by name.

    Attributes:
      excluded: images that are left out.
      relabelled: image -> its new label: a class index, or of several labels uint8 [C] of 0 and 1.
      notes: what else there is to say of the tables, one line each.
    """

    excluded: frozenset[str] = frozenset()
    relabelled: Mapping[str, int | np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def apply(self, dataset: Dataset) -> Dataset:
        """Returns the images that are not left out, with their new labels."""
        if self.relabelled:
            labels = dataset.labels.copy()
            for i, name in enumerate(dataset.names):
                if name in self.relabelled:
                    labels[i] = self.relabelled[name]
            dataset = replace(dataset, labels=labels)
        if not self.excluded.isdisjoint(dataset.names):
            dataset = dataset.take(np.array([i for i, n in enumerate(dataset.names) if n not in self.excluded], int))
        return dataset

    def changes(self, splits: Mapping[str, Dataset | None]) -> list[dict[str, str]]:
        """Returns what changes in the splits, plain values: "image", "split", "label", and "action".

        Args:
          splits: as they were found; None is a split that there is not.
        """
        found = []
        for title, dataset in splits.items():
            for i, name in enumerate(dataset.names if dataset is not None else ()):
                if name not in self.excluded and name not in self.relabelled:
                    continue
                assert dataset is not None
                action = EXCLUDE
                if name not in self.excluded:
                    action = in_words(self.relabelled[name], dataset.classes)
                row = {"image": name, "split": title, "label": in_words(dataset.labels[i], dataset.classes)}
                found.append({**row, "action": action})
        return found


NO_CORRECTIONS = Corrections()


def in_short(changes: Sequence[Mapping[str, str]]) -> list[str]:
    """Says in a line each how many images `Corrections.changes` leaves out, of which splits, and relabels."""
    lines = []
    out = [change for change in changes if change["action"] == EXCLUDE]
    new = [change for change in changes if change["action"] != EXCLUDE]
    for verb, found in (("left out by hand", out), ("with another label by hand", new)):
        if found:
            count = Counter(change["split"] for change in found)
            sides = ", ".join(f"{number} of {split}" for split, number in count.items())
            shown = [
                change["image"] + ("" if change["action"] == EXCLUDE else f" {change['label']} -> {change['action']}")
                for change in found
            ]
            lines.append(f"{len(found)} images {verb} ({sides}): {few(shown, _SHOWN, '; ')}")
    return lines


def in_words(label: "int | np.integer | np.ndarray", classes: Sequence[str]) -> str:
    """Returns the class of a label, or the classes of several, as a table has them.

    >>> in_words(1, ("cat", "dog")), in_words(np.uint8([1, 1]), ("cat", "dog"))
    ('dog', 'cat;dog')
    """
    if np.ndim(label) == 0:
        return classes[int(label)]
    return SEPARATOR.join(classes[i] for i in np.flatnonzero(label).tolist())


def read_corrections(splits: Mapping[str, Dataset], uri: str, *, exclude: str = "", relabel: str = "") -> Corrections:
    """Reads what a person wrote into the column `action`: "exclude", the name of a class, or "keep", which is nothing.

    Args:
      splits: the whole splits of the source.
      uri: what messages call the source.
      exclude: the table whose images with the action "exclude" are left out; "" for none.
      relabel: the table whose images with a class as the action are of that class; "" for none. May be the same.

    Raises:
      UserError: a table cannot be read, is of another source, or says what cannot be done; all problems of it at once.
    """
    excluded: set[str] = set()
    relabelled: dict[str, int | np.ndarray] = {}
    notes: list[str] = []
    for argument, path in {"exclude": exclude, "relabel": relabel}.items():
        if not path:
            continue
        rows = read_rows(Path(path).expanduser(), argument)
        _check(rows, splits, uri, path, argument)
        found = {row.image: row.action for row in rows if row.action != KEEP}
        classes = {row.image: row.action for row in rows if row.action not in (KEEP, EXCLUDE)}
        out = [image for image, action in found.items() if action == EXCLUDE]
        if argument == "exclude":
            excluded.update(out)
            if not out:
                notes.append(f"{path} leaves out no image: no row of it has the action {EXCLUDE!r}")
            if classes and path != relabel:
                notes.append(f"{path} gives {len(classes)} images a class, too, which is left alone: set relabel to it")
            continue
        of_all = next(iter(splits.values()))
        relabelled.update({image: _parse(action, of_all) for image, action in classes.items()})
        if not classes:
            notes.append(f"{path} gives no image another label: no row of it has a class as its action")
        if out and path != exclude:
            notes.append(f"{path} excludes {len(out)} images, too, which are left in: set exclude to it")
    return Corrections(frozenset(excluded), relabelled, tuple(notes))


def read_rows(file: Path, argument: str = "exclude") -> list[Row]:
    """Returns the rows of a table that have an action.

    Args:
      file: with a header that has image and action, and where wanted label.
      argument: what the error names, if there is one.

    Raises:
      UserError: there is no such table, or it has other columns.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        if "\0" in text:
            raise csv.Error("it holds binary data")
        header = text.split("\n", 1)[0]
        delimiter = max(_DELIMITERS, key=header.count)
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
        cells = [(table.line_num, row) for row in table]
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist: give the audit.csv of the source, with actions in it", arguments=[argument]
        ) from None
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file} cannot be read as a table: {reason}", arguments=[argument]) from error
    missing = [name for name in ("image", "action") if name not in columns]
    if missing:
        found = ", ".join(map(repr, columns)) if columns else "nothing"
        raise UserError(
            f"{file} has no column {' and no column '.join(missing)}: its first line has {found[:200]}",
            arguments=[argument],
        )

    def cell(row: Mapping[str, str | None], name: str) -> str:
        return (row[columns[name]] or "").strip()

    has_label = "label" in columns
    rows = [
        Row(n, cell(row, "image"), cell(row, "label") if has_label else None, cell(row, "action")) for n, row in cells
    ]
    return [
        replace(row, action=row.action.lower()) if row.action.lower() in (EXCLUDE, KEEP) else row
        for row in rows
        if row.action
    ]


def _check(rows: Sequence[Row], splits: Mapping[str, Dataset], uri: str, path: str, argument: str) -> None:
    """Raises a UserError unless each row names an image with its label, and an action that can be done."""
    known = {name: (dataset, i) for dataset in splits.values() for i, name in enumerate(dataset.names)}
    classes = next(iter(splits.values())).classes
    problems = []
    strangers = list(dict.fromkeys(row.image for row in rows if row.image not in known))
    if strangers:
        images = len({row.image for row in rows})
        problems.append(
            f"{len(strangers)} of {images} images of {path} are not in {uri}: "
            f"{few(strangers, _SHOWN)}; is it the table of another source?"
        )
    rows = [row for row in rows if row.image in known]
    other = [(row, now) for row in rows if (now := _other_label(row, known)) is not None]
    if other:
        row, now = other[0]
        problems.append(
            f"{len(other)} images of {path} have another label in {uri}, as line {row.line}: {row.image} is "
            f"{row.label!r} there and {now!r} in the source; audit it again, or take the column label away"
        )
    reserved = [name for name in (EXCLUDE, KEEP) if name in classes and any(row.action == name for row in rows)]
    problems += [f"{path}: {name!r} is an action, and a class of {uri}: rename that class" for name in reserved]
    problems += _strange_actions(rows, known, uri, path)
    actions: dict[str, Row] = {}
    differing = []
    for row in rows:
        first = actions.setdefault(row.image, row)
        if first.action != row.action:
            differing.append(f"{row.image} (lines {first.line} and {row.line}: {first.action}, {row.action})")
    if differing:
        problems.append(f"{path} has two actions for {len(differing)} images: {few(differing, _SHOWN, '; ')}")
    if problems:
        raise UserError("\n".join(problems), arguments=[argument])


def _other_label(row: Row, known: Mapping[str, tuple[Dataset, int]]) -> str | None:
    """Returns the label that the source has, if it is another than that of the row."""
    dataset, i = known[row.image]
    now = in_words(dataset.labels[i], dataset.classes)
    return now if row.label and row.label != now.strip() else None  # An empty cell says nothing.


def _strange_actions(rows: Sequence[Row], known: Mapping[str, tuple[Dataset, int]], uri: str, path: str) -> list[str]:
    """Returns a line on the actions that are neither known words nor classes, if there are any."""
    strange = []
    for row in rows:
        dataset = known[row.image][0]
        parts = row.action.split(SEPARATOR) if dataset.several else [row.action]
        unknown = [part.strip() for part in parts if part.strip() not in dataset.classes]
        if row.action not in (EXCLUDE, KEEP) and unknown:
            strange.append((row, unknown[0], dataset.classes))
    if not strange:
        return []
    row, word, classes = strange[0]
    near = nearest(word, [*classes, EXCLUDE, KEEP])
    meant = f"did you mean {near!r}? " if near else ""
    more = f" ({len(strange)} lines have such ones)" if len(strange) > 1 else ""
    return [
        f"{path}, line {row.line}: the action {word!r}{more} is no class of {uri}: {meant}An action is {EXCLUDE!r}, "
        f"{KEEP!r}, or one of {few(list(classes), 12)}"
    ]


def _parse(action: str, dataset: Dataset) -> int | np.ndarray:
    """Returns the label that an action names; of several labels, the classes between semicolons."""
    if not dataset.several:
        return dataset.classes.index(action)
    label = np.zeros(len(dataset.classes), np.uint8)
    label[[dataset.classes.index(part.strip()) for part in action.split(SEPARATOR)]] = 1
    return label
