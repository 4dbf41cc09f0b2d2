"""Costs of decisions from a CSV file, whose rows and columns are named by classes."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxtl.errors import UserError


def read_costs(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Returns costs [C, C] in the order of the classes: by the row's true class, what the column's decision costs.

    The first row names the decisions, the first column the true classes, each class once, in any order. A number may be
    negative, where a decision gains something.

    Raises:
      UserError: the file cannot be read, names other classes, or holds something besides numbers; all at once.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except OSError as error:
        raise UserError(f"--costs={path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--costs={path} is no CSV file: {error}.") from error
    if not rows:
        raise UserError(f"--costs={path} is empty: give a row of class names, and one for each class.")
    columns, names = rows[0][1:], [row[0] for row in rows[1:]]
    problems = _wrong_names("first row", columns, classes) + _wrong_names("first column", names, classes)
    if not problems:
        problems = [f"the row of {row[0]!r} has {len(row) - 1} costs" for row in rows[1:] if len(row) != len(rows[0])]
    if not problems:
        problems = [
            f"the cost of {column!r} for {row[0]!r} is {cell!r}, which is no number"
            for row in rows[1:]
            for column, cell in zip(columns, row[1:], strict=True)
            if not _is_number(cell)
        ]
    if problems:
        more = [f"... and {len(problems) - 6} more"] * (len(problems) > 6)
        raise UserError(
            f"--costs={path} does not hold one number for each pair of classes:\n  " + "\n  ".join(problems[:6] + more)
        )
    cells = {(row[0], column): float(cell) for row in rows[1:] for column, cell in zip(columns, row[1:], strict=True)}
    return np.array([[cells[name, decision] for decision in classes] for name in classes])


def _wrong_names(where: str, names: Sequence[str], classes: Sequence[str]) -> list[str]:
    unknown = [name for name in dict.fromkeys(names) if name not in classes]
    missing = [name for name in classes if name not in names]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    found = {"names no class of the run": unknown, "lacks": missing, "names twice": twice}
    return [f"its {where} {what}: {', '.join(map(repr, listed))}" for what, listed in found.items() if listed]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
