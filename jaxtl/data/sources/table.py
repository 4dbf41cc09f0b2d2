"""csv:FILE is a table with the columns image and label, and where wanted split and name."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.remarks import quantities
from jaxtl.data.sources.folder import read_file
from jaxtl.data.splits import canonical
from jaxtl.errors import UserError

MAX_CLASSES = 1_000_000  # A larger number is an identifier of something else.
_COLUMNS = ("image", "label", "split", "name")


def read_csv(path: str) -> dict[str, Dataset]:
    """Reads a table of images; no image is opened.

    Columns: `image`, a path relative to the table; `label`, a class index or a class name; optionally `split`, and
    `name`, the class name beside a class index. If all labels are integers they are class indices as they stand, so a
    table may show a part of the classes of a model; otherwise the sorted distinct labels are the classes.

    Returns:
      The splits by name; a table without the column `split` has one, called "all".

    Raises:
      UserError: missing columns, labels or files, contradictions, all at once.
    """
    file = Path(path).expanduser()
    rows = _read_rows(file)
    problems = _check_rows(rows, file)
    given = [row["label"] for row in rows]
    problems += filter(None, [_several_labels(given), quantities(given) if _no_indices(given) else ""])
    classes, labels = _classes(given, [row.get("name", "") for row in rows], problems)
    if problems:
        raise UserError("\n".join(f"{file}: {problem}" for problem in problems), arguments=["source"])
    splits: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        splits.setdefault(canonical(row.get("split", "all")), []).append(i)
    names = tuple(row["image"] for row in rows)
    whole = Dataset(
        classes=classes,
        labels=np.array(labels, np.int32),
        names=names,
        read=lambda i: read_file(file.parent / names[i]),
        root=file.parent,
    )
    return {split: whole.take(np.array(indices)) for split, indices in splits.items()}


def _read_rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise UserError(
            f"table {file} does not exist; a csv source has the columns image and label", arguments=["source"]
        )
    try:
        # Spreadsheets begin a UTF-8 file with a byte order mark, which would become part of the first column's name.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            columns = {(column or "").strip().lower(): column for column in table.fieldnames or ()}
            missing = [name for name in _COLUMNS[:2] if name not in columns]
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


def _check_rows(rows: list[dict[str, str]], file: Path) -> list[str]:
    if not rows:
        return ["the table has no rows below its header"]
    problems = []
    for column in ("image", "label", "split"):
        empty = [i + 2 for i, row in enumerate(rows) if not row.get(column, "present")]
        if empty:
            problems.append(f"{len(empty)} rows have no {column} (lines {_few(empty)})")
    missing = [row["image"] for row in rows if row["image"] and not (file.parent / row["image"]).is_file()]
    if missing:
        problems.append(f"{len(missing)} of {len(rows)} images do not exist beside the table: {_few(missing)}")
    repeated = [image for image, count in Counter(row["image"] for row in rows).items() if count > 1 and image]
    if repeated:
        problems.append(f"{len(repeated)} images are listed more than once: {_few(repeated)}; keep one line each")
    return problems


def _several_labels(labels: list[str]) -> str:
    """Returns what is wrong where a label is several, as in "cat|dog" or "cat;dog"; "" where each is one."""
    several = {i + 2: label for i, label in enumerate(labels) if "|" in label or ";" in label}
    if not several:
        return ""
    line, label = next(iter(several.items()))
    return (
        f"{len(several)} rows have several labels, as line {line} has {label!r}; an image has one class here, so write "
        "one label a row. If it is one name, write it without | and ;"
    )


def _no_indices(labels: list[str]) -> bool:
    """Tells whether labels cannot be class indices; those that can may be a few of many classes, to evaluate on."""
    return not all(label.isdecimal() and int(label) < MAX_CLASSES for label in labels)


def _classes(labels: list[str], names: list[str], problems: list[str]) -> tuple[tuple[str, ...], list[int]]:
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


def _few(items: list) -> str:
    return ", ".join(str(item) for item in items[:3]) + (", ..." if len(items) > 3 else "")
