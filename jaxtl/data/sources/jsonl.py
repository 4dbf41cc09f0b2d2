"""jsonl:FILE has a JSON object a line: {"image": "a.jpg", "labels": ["cat", "dog"]}, or of one label "label": "cat"."""

import json
import math
from pathlib import Path
from typing import Any

from jaxtl.data.dataset import Dataset
from jaxtl.data.sources.table import Row, few, make_splits
from jaxtl.errors import UserError

# Lines that are wrong are told one by one up to so many.
_SHOWN = 5


def read_jsonl(path: str) -> dict[str, Dataset]:
    """Reads a list of images; no image is opened.

    Keys of each line: "image", a path relative to the file; "labels", a list of class names, which may be empty, or in
    all lines "label", one class name; optionally "split", and in all lines "group", a string or a whole number: what
    the image belongs to, such as a patient, or "weight", a positive number: how much it counts in the loss of training,
    in proportion to others. A name may hold any character. Names that are integers in all lines are
    class indices, as of `table.read_csv`.

    Returns:
      The splits by name; without any "split" there is one, called "all".

    Raises:
      UserError: what is wrong in which lines; missing files, contradictions, all at once.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f'{file} does not exist; a jsonl source has a line {{"image": "a.jpg", "labels": ["cat"]}} an image',
            arguments=["source"],
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8: {error}", arguments=["source"]) from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{file} has no lines: write one for each image", arguments=["source"])
    problems: list[str] = []
    rows: list[Row] = []
    forms: dict[str, list[int]] = {"label": [], "labels": []}
    for number, line in lines:
        try:
            row, form = _row(number, line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        rows.append(row)
        forms[form].append(number)
    problems = problems[:_SHOWN] + [f"{len(problems) - _SHOWN} more lines are wrong"] * (len(problems) > _SHOWN)
    if all(forms.values()):
        problems.append(
            f'some lines have "label" (lines {few(forms["label"])}) and some "labels" (lines {few(forms["labels"])}): '
            'give "labels" in all, a list each'
        )
    for name, advice in (
        ("group", "give each its group, or a name of its own where it is alone"),
        ("weight", "give each a weight, 1 where it counts once"),
    ):
        without = [row.line for row in rows if getattr(row, name) is None]
        if 0 < len(without) < len(rows):
            problems.append(
                f'{len(without)} lines have no "{name}" (lines {few(without)}) and the others have: {advice}'
            )
    if not rows:
        raise UserError("\n".join(f"{file}: {problem}" for problem in problems), arguments=["source"])
    return make_splits(file, rows, several=bool(forms["labels"]), problems=problems)


def _row(number: int, line: str) -> tuple[Row, str]:
    """Returns what a line says, and whether it says "label" or "labels".

    Raises:
      ValueError: what is wrong with it.
    """
    try:
        values: Any = json.loads(line)
    except ValueError:
        raise ValueError(f"no JSON: {line.strip()[:40]!r}") from None
    if not isinstance(values, dict):
        raise ValueError(f'no object with "image" and "labels", but {line.strip()[:40]!r}')
    if ("label" in values) == ("labels" in values):
        both = "both" if "label" in values else "neither"
        raise ValueError(f'it has {both} of "label" and "labels": give "labels", a list, or of one label "label"')
    form = "label" if "label" in values else "labels"
    labels = [values["label"]] if form == "label" else values["labels"]
    if not isinstance(labels, list):
        raise ValueError(f'"labels" is {json.dumps(labels)}, but it must be a list of names')
    for label in labels:
        if not isinstance(label, str):
            raise ValueError(f'the label {json.dumps(label)} is no string: write "{label}" if that is its name')
    image, split = values.get("image", ""), values.get("split", "all")
    if not isinstance(image, str) or not isinstance(split, str):
        raise ValueError('"image" and "split" must be strings')
    group = values.get("group")
    if group is not None and (isinstance(group, bool) or not isinstance(group, str | int)):
        raise ValueError(f'"group" is {json.dumps(group)}, but it must be a string or a whole number')
    group = None if group is None else str(group).strip()
    weight = values.get("weight")
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf
    ):
        raise ValueError(f'"weight" is {json.dumps(weight)}, but it must be a positive number')
    names = [label.strip() for label in labels]
    return Row(number, image.strip(), names, split.strip(), group=group, weight=weight), form
