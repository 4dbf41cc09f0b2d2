"""csv:FILE is a table with the columns image and label, or labels, and where wanted split, name, group and weight."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.remarks import quantities
from jaxtl.data.sources.folder import read_file
from jaxtl.data.splits import canonical
from jaxtl.errors import UserError

MAX_CLASSES = 1_000_000  # A larger number is an identifier of something else.
SEPARATOR = ";"
_COLUMNS = ("image", "label", "labels", "split", "name", "group", "weight")


@dataclass(frozen=True)
class Row:
    """What a table says of one image.

    Attributes:
      line: in the file.
      image: its path relative to the table.
      labels: its labels; one without text is missing.
      split: the name of its split.
      name: the class name beside a class index.
      group: what the image belongs to, such as a patient; None where the table has no groups.
      weight: how much the image counts in training; None where the table has no weights.
    """

    line: int
    image: str
    labels: Sequence[str]
    split: str = "all"
    name: str = ""
    group: str | None = None
    weight: float | None = None


def read_csv(path: str) -> dict[str, Dataset]:
    """Reads a table of images; no image is opened.

    Columns: `image`, a path relative to the table; `label`, a class index or a class name; optionally `split`, `name`,
    the class name beside a class index, `group`, what an image belongs to, such as a patient, and `weight`, a positive
    number: how much an image counts in the loss of training, in proportion to others. If all labels are
    integers they are class indices as they stand, so a table may show a part of the classes of a model; otherwise the
    sorted distinct labels are the classes.

    An image has several labels, as in "cat;dog", if any cell of `label` holds a semicolon, or if the column is called
    `labels`; there an empty cell is an image without labels.

    Returns:
      The splits by name; a table without the column `split` has one, called "all".

    Raises:
      UserError: missing columns, labels or files, contradictions, all at once.
    """
    file = Path(path).expanduser()
    cells = _read_cells(file)
    plural = bool(cells) and "labels" in cells[0]
    given = [cell["labels" if plural else "label"] for cell in cells]
    several = plural or any(SEPARATOR in label for label in given)
    problems = list(filter(None, [_other_separator(given, plural)]))
    rows = []
    for i, (cell, text) in enumerate(zip(cells, given, strict=True)):
        parts = [part.strip() for part in text.split(SEPARATOR)] if several else [text]
        labels = [part for part in parts if part] if several and (text or plural) else parts
        named = {key: cell[key] for key in ("split", "name", "group") if key in cell}
        weight = _number(cell["weight"]) if "weight" in cell else None
        rows.append(Row(i + 2, cell["image"], labels, **named, weight=weight))
    return make_splits(file, rows, several=several, problems=problems)


def make_splits(file: Path, rows: Sequence[Row], *, several: bool, problems: list[str]) -> dict[str, Dataset]:
    """Returns the splits that the rows of a table name; no image is opened.

    Args:
      file: the table.
      rows: of it.
      several: whether an image may have several labels, or none.
      problems: what was found wrong so far.

    Raises:
      UserError: that, and missing labels or files, contradictions, all at once.
    """
    problems = [*_check_rows(rows, file), *problems]
    flat = [label for row in rows for label in row.labels]
    if not several and _no_indices(flat) and (found := quantities(flat)):
        problems.append(found)
    if several and any(row.name for row in rows):
        problems.append("the column name names the one class of an image; of several labels write the names themselves")
    names = [""] * len(flat) if several else [row.name for row in rows]
    classes, indices = _classes(flat, names, problems)
    if problems:
        raise UserError("\n".join(f"{file}: {problem}" for problem in problems), arguments=["source"])
    splits: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        splits.setdefault(canonical(row.split), []).append(i)
    images = tuple(row.image for row in rows)
    labels = np.array(indices, np.int32)
    if several:
        owner = np.repeat(np.arange(len(rows)), [len(row.labels) for row in rows])
        labels = np.zeros((len(rows), len(classes)), np.uint8)
        labels[owner, indices] = 1
    groups = tuple(row.group for row in rows if row.group is not None) or None
    weights = [row.weight for row in rows if row.weight is not None]
    whole = Dataset(
        classes,
        labels,
        images,
        lambda i: read_file(file.parent / images[i]),
        file.parent,
        groups,
        np.array(weights, np.float32) if weights else None,
    )
    return {split: whole.take(np.array(of_split)) for split, of_split in splits.items()}


def _read_cells(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise UserError(
            f"table {file} does not exist; a csv source has the columns image and label", arguments=["source"]
        )
    try:
        # Spreadsheets begin a UTF-8 file with a byte order mark, which would become part of the first column's name.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            columns = {(column or "").strip().lower(): column for column in table.fieldnames or ()}
            if {"label", "labels"} <= columns.keys():
                raise UserError(
                    f"{file} has the columns label and labels: keep label where each image has one, and labels where "
                    "it has several or none",
                    arguments=["source"],
                )
            wanted = ("image", "labels" if "labels" in columns else "label")
            missing = [name for name in wanted if name not in columns]
            if missing:
                raise UserError(
                    f"{file} has no column {' and no column '.join(missing)}; its first line names {list(columns)}, "
                    "separated by commas",
                    arguments=["source"],
                )
            used = [name for name in _COLUMNS if name in columns]
            return [{name: (row[columns[name]] or "").strip() for name in used} for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a table in UTF-8: {error}", arguments=["source"]) from error


def _check_rows(rows: Sequence[Row], file: Path) -> list[str]:
    if not rows:
        return ["the table has no rows below its header"]
    problems = []
    empty = {
        "image": [row.line for row in rows if not row.image],
        "label": [row.line for row in rows if not all(row.labels)],
        "split": [row.line for row in rows if not row.split],
        "group": [row.line for row in rows if row.group == ""],
    }
    for column, lines in empty.items():
        if lines:
            problems.append(f"{len(lines)} rows have no {column} (lines {few(lines)})")
    if lines := [row.line for row in rows if row.weight is not None and not 0 < row.weight < math.inf]:
        problems.append(
            f"{len(lines)} rows have a weight that is no positive number (lines {few(lines)}): an image that is not to "
            "count is left out of the table"
        )
    missing = [row.image for row in rows if row.image and not (file.parent / row.image).is_file()]
    if missing:
        problems.append(f"{len(missing)} of {len(rows)} images do not exist beside the table: {few(missing)}")
    repeated = [image for image, count in Counter(row.image for row in rows).items() if count > 1 and image]
    if repeated:
        problems.append(f"{len(repeated)} images are listed more than once: {few(repeated)}; keep one line each")
    return problems


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _other_separator(labels: Sequence[str], plural: bool) -> str:
    """Returns what is wrong where labels are separated by something else, as in "cat|dog"; or "".

    A comma may belong to a name, as in "tench, Tinca tinca"; in a column of several labels without any semicolon it is
    more likely a separator.
    """
    others = "|," if plural and not any(SEPARATOR in label for label in labels) else "|"
    several = {i + 2: label for i, label in enumerate(labels) if any(other in label for other in others)}
    if not several:
        return ""
    line, label = next(iter(several.items()))
    return (
        f"{len(several)} rows seem to have several labels, as line {line} has {label!r}: separate them by {SEPARATOR}, "
        f"as in cat{SEPARATOR}dog. If it is one name, write it without {' and '.join(others)}, or as a list in a .jsonl"
    )


def _no_indices(labels: Sequence[str]) -> bool:
    """Tells whether labels cannot be class indices; those that can may be a few of many classes, to evaluate on."""
    return not all(label.isdecimal() and int(label) < MAX_CLASSES for label in labels)


def _classes(labels: Sequence[str], names: Sequence[str], problems: list[str]) -> tuple[tuple[str, ...], list[int]]:
    try:
        indices = [int(label) for label in labels]
    except ValueError:
        classes = tuple(sorted(set(labels)))
        place = {name: i for i, name in enumerate(classes)}
        return classes, [place[label] for label in labels]
    if not indices:
        return (), []
    if min(indices) < 0:
        problems.append(f"the label {min(indices)} is negative; class indices begin at 0")
        return (), indices
    if max(indices) >= MAX_CLASSES:
        problems.append(f"the label {max(indices)} is too large for a class index; write names instead of numbers")
        return (), indices
    named: dict[int, str] = {}
    for index, name in zip(indices, names, strict=True):
        if name and named.setdefault(index, name) != name:
            problems.append(f"label {index} is named {named[index]!r} and {name!r}; one class has one name")
    return tuple(named.get(i, str(i)) for i in range(max(indices) + 1)), indices


def few(items: Sequence[object]) -> str:
    """Returns the first items in words."""
    return ", ".join(str(item) for item in items[:3]) + (", ..." if len(items) > 3 else "")
