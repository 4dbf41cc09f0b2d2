"""The page of a comparison, and the files that a comparison writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.evaluate.paired import only_right, recalls
from jaxtl.experiment import comparison_tables as tables
from jaxtl.experiment import workdir as files
from jaxtl.experiment.comparing import Comparison, Paired
from jaxtl.experiment.comparison_tables import Cell, Table
from jaxtl.experiment.verdicts import verdicts
from jaxtl.report.learning_curves import Marks, learning_curves
from jaxtl.report.page import percent, render

NAMES = ("compare.html", "compare.md", "compare.json")
# More rows than these, nobody reads, and a browser takes its time.
_MAX_CLASSES = 300
_MAX_IMAGES = 50


def check_output(folder: Path) -> None:
    """Sees that a comparison may be written there, before anything is computed.

    Raises:
      UserError: it is a file, the workdir of a run, or holds files of these names that no comparison wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder} is a file: give a folder.")
    if (folder / "config.json").exists() or (folder / "checkpoints").exists():
        raise UserError(f"--output={folder} is the workdir of a run, whose files must stay: give another folder.")
    there = [name for name in NAMES if (folder / name).exists()]
    if there and not _is_ours(folder / "compare.json"):
        raise UserError(f"--output={folder} holds a {there[0]} that no comparison wrote: give another folder.")


def _is_ours(path: Path) -> bool:
    try:
        found = files.read_json(path)
    except UserError:
        return False
    return isinstance(found, dict) and {"baseline", "differences", "runs"} <= found.keys()


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes compare.html, compare.md and compare.json into a folder, in place of an earlier comparison; returns them.

    Raises:
      UserError: they cannot be written there.
    """
    # The file that tells that the others are a comparison's comes first.
    texts = {
        "compare.json": json.dumps(tables.to_json(comparison), indent=1, ensure_ascii=False) + "\n",
        "compare.md": tables.to_text(comparison),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (texts | {"compare.html": page_of(comparison)}).items():
            files.write_whole(folder / name, text)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be written: {error.strerror or error}.") from error
    return [folder / name for name in NAMES]


def page_of(comparison: Comparison) -> str:
    """Returns the page of a comparison."""
    runs = comparison.runs
    best = {run.name: run.results["best_step"] for run in runs if "best_step" in run.results}
    epoch = {run.name: run.results["steps_per_epoch"] for run in runs if run.results.get("steps_per_epoch")}
    trained = {run.name: run.lines for run in runs if run.lines}
    values: dict[str, Any] = {
        "runs": [run.name for run in runs],
        "headings": tables.headings(comparison),
        "notes": comparison.notes,
        "verdicts": verdicts(comparison),
        "metrics": tables.metrics_table(comparison),
        "differences": tables.differences_table(comparison),
        "charts": learning_curves(trained, Marks(best, stages=(), steps_per_epoch=epoch)) if trained else [],
        "config": tables.config_table(comparison) if comparison.config else None,
        "facts": tables.facts_table(comparison),
        "classes": None,
        "classes_left_out": 0,
        "images": [],
    }
    if comparison.paired is not None:
        values |= _of_pairs(comparison.paired)
    return render("compare.html", values)


def _of_pairs(paired: Paired) -> dict[str, Any]:
    """Returns what the page says of single classes and images."""
    judged, baseline = paired.aligned.judged, paired.baseline
    images = []
    for name in paired.differences:
        for right, wrong in ((name, baseline), (baseline, name)):
            index = only_right(judged[right], judged[wrong])
            images.append({"right": right, "wrong": wrong, "count": len(index), "table": _images(paired, wrong, index)})
    table, left_out = class_table(paired)
    return {"classes": table, "classes_left_out": left_out, "images": images}


def _images(paired: Paired, wrong: str, index: np.ndarray) -> Table:
    """Returns the images that one run has wrong, at most _MAX_IMAGES of them."""
    aligned, judged = paired.aligned, paired.aligned.judged[wrong]
    rows = [
        [
            Cell(aligned.names[i]),
            Cell(aligned.classes[judged.labels[i]]),
            Cell(aligned.classes[judged.predicted[i]]),
            Cell(percent(float(judged.confidences[i])), value=float(judged.confidences[i])),
        ]
        for i in index[:_MAX_IMAGES]
    ]
    return Table(["image", "class", "predicted", "confidence"], rows, [False, False, False, True])


def class_table(paired: Paired) -> tuple[Table, int]:
    """Returns classes x recalls, and the number of classes left out: past _MAX_CLASSES, those that differ least.

    The last column is the widest difference of a run from the baseline. Classes without images are left out, too.
    """
    judged = paired.aligned.judged
    recall = np.stack([recalls(each) for each in judged.values()])  # [M, C]
    labels = judged[paired.baseline].labels
    count = np.bincount(labels, minlength=recall.shape[1])
    change = recall[1:] - recall[0]
    widest = np.where(count, np.take_along_axis(change, np.abs(change).argmax(0)[None], 0)[0], 0.0)
    order = np.argsort(-np.abs(widest), kind="stable")
    order = order[count[order] > 0][:_MAX_CLASSES]
    rows = []
    for i in order:
        kind = "" if not widest[i] else "good" if widest[i] > 0 else "bad"
        of_runs = [Cell(percent(float(value)), value=float(value)) for value in recall[:, i]]
        difference = Cell(f"{100 * widest[i] + 0:+.1f}", value=float(widest[i]), kind=kind)
        rows.append([Cell(paired.aligned.classes[i]), Cell(f"{count[i]:,}", value=int(count[i])), *of_runs, difference])
    last = "difference, points" if len(judged) == 2 else "widest difference, points"
    header = ["class", "images", *(f"recall, {name}" for name in judged), last]
    return Table(header, rows, [False] + [True] * (len(header) - 1)), int((count > 0).sum()) - len(order)
