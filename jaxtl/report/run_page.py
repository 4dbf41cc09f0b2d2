"""The page of a run: its figures, and pictures of where it fails, as values for the templates."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxtl.pretrained.report import LoadReport
from jaxtl.report.balance import balance_chart
from jaxtl.report.confusion import Pair, confused_pairs, confusion_chart
from jaxtl.report.facts import Classified, Facts
from jaxtl.report.gallery import examples_of, least_certain, most_wrong_labels, worst_mistakes
from jaxtl.report.page import image_uri, render
from jaxtl.report.ranking import precision_recall_chart, roc_chart
from jaxtl.report.together import members_of
from jaxtl.train.screen import duration

# The longer side of a picture on the page, in pixels: it is shown at about 136.
_SIDE = 160

# What the summary shows of a split: key, name, whether it is a share, key of its interval, and what is better.
_SUMMARY = (
    ("accuracy", "accuracy", True, "accuracy_interval"),
    ("top5", "top-5 accuracy", True, ""),
    ("balanced_accuracy", "balanced accuracy", True, "balanced_accuracy"),
    ("macro.precision", "macro precision", True, ""),
    ("macro.recall", "macro recall", True, ""),
    ("macro.f1", "macro F1", True, "macro_f1"),
    ("weighted.f1", "weighted F1", True, ""),
    ("macro.specificity", "macro specificity", True, ""),
    ("macro.roc_auc", "ROC-AUC (one against the rest)", False, ""),
    ("macro.average_precision", "average precision", False, ""),
    ("log_loss", "log loss", False, "log_loss"),
    ("brier", "Brier score", False, ""),
    ("ece", "ECE", True, "ece"),
    ("adaptive_ece", "adaptive ECE", True, ""),
    ("kappa", "Cohen's kappa", False, ""),
    ("mcc", "Matthews' coefficient", False, ""),
    ("map", "mean average precision (mAP)", True, "map"),
    ("micro.f1", "micro F1", True, ""),
    ("samples.f1", "F1 of an image, mean", True, ""),
    ("hamming_loss", "Hamming loss", True, ""),
    ("lrap", "label ranking average precision", True, ""),
    ("coverage_error", "coverage error, in labels", False, ""),
    ("at_thresholds.subset_accuracy", "subset accuracy, at thresholds chosen on val", True, ""),
    ("at_thresholds.macro.f1", "macro F1, likewise", True, ""),
    ("at_thresholds.micro.f1", "micro F1, likewise", True, ""),
    ("at_thresholds.hamming_loss", "Hamming loss, likewise", True, ""),
)
_CARDS = ("accuracy", "balanced_accuracy", "macro.f1", "map", "hamming_loss", "log_loss", "ece")
_CLASS_COLUMNS = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
}
# Of several labels an image, where thresholds were chosen on val.
_THRESHOLD_COLUMNS = {"threshold": "threshold", "f1_at_threshold": "F1 there"}
_SECTIONS = (
    ("summary", "Summary"),
    ("members", "Members"),
    ("learning", "Learning curves"),
    ("classes", "Classes"),
    ("confusion", "Confusion"),
    ("mistakes", "Worst mistakes"),
    ("uncertain", "Least certain"),
    ("curves", "Curves"),
    ("map", "Feature map"),
    ("groups", "What trained"),
    ("weights", "Weights"),
    ("data", "Data"),
    ("repeat", "Repeat it"),
)
# The value that a section is shown by, where it has another name.
_SHOWN_BY = {"summary": "rows", "classes": "per_class"}


@dataclass(frozen=True)
class Picture:
    """An image of a split, with what the model said of it.

    Attributes:
      uri: its address, a JPEG; "" where it cannot be had.
      name: of the image.
      actual: the true class.
      predicted: the predicted one.
      probability: of the predicted class.
      own: the probability of the true class.
      map: the address of what speaks for the predicted class; "" where that is not known.
      loss: of several labels an image, which `actual` and `predicted` list; else None.
    """

    uri: str
    name: str
    actual: str
    predicted: str
    probability: float = 0.0
    own: float = 0.0
    map: str = ""
    loss: float | None = None


def run_page(facts: Facts, charts: Mapping[str, Sequence[Markup]]) -> str:
    """Returns the page of a run, one HTML file that needs nothing else.

    Args:
      facts: of the run.
      charts: further ones by the section that they stand in: "learning", "curves", "map".
    """
    values = {**summary(facts), **_details(facts, charts)}
    sections = [(name, title) for name, title in _SECTIONS if name == "repeat" or values.get(_SHOWN_BY.get(name, name))]
    return render("run.html", {**values, "sections": sections})


def markdown(facts: Facts) -> str:
    """Returns the summary in Markdown, for a pull request."""
    confusion = facts.metrics.get("confusion_matrix")
    pairs = confused_pairs(np.asarray(confusion), limit=5) if confusion else []
    values = {**summary(facts), "pairs": [(pair, _named(pair, facts)) for pair in pairs]}
    return render("report.md", values)


def summary(facts: Facts) -> dict[str, Any]:
    """Returns what the summary of a page, a report and a model card say alike."""
    return {
        "facts": facts,
        "model": facts.model.get("model") or facts.results.get("model", ""),
        "source": facts.source,
        "headline": _headline(facts),
        "rows": _summary_rows(facts),
        "splits": [split for split in ("val", "test") if split in facts.results],
        "config": dict(facts.changed),
        "command": _command(facts),
        "workdir": shlex.quote(facts.workdir),
        "duration": duration(facts.results.get("seconds", {}).get("total", 0.0)),
    }


def _command(facts: Facts) -> str:
    """Returns the command that does it again."""
    if "command" in facts.results:  # What was put together of runs.
        return str(facts.results["command"])
    command, config = "eval " if facts.state == "evaluation" else "", shlex.quote(f"{facts.workdir}/config.json")
    return f"python -m jaxtl.main {command}--config={config} --workdir=NEW"


def _headline(facts: Facts) -> str:
    if facts.split:
        metrics, named = facts.metrics, facts.title(facts.split)
        if facts.several:
            share, mean = metrics["accuracy"], metrics.get("map")
            precision = "" if mean is None else f", mAP {100 * mean:.1f} %"
            return f"{100 * share:.1f} % of {_images(metrics)} of {named} with all labels right{precision}"
        return f"{100 * metrics['accuracy']:.1f} % of {_images(metrics)} of {named} right"
    last = [line for line in facts.lines if line.get("split") == "val"]
    reached = max((line["step"] for line in facts.lines), default=0)
    state = f"stopped at step {reached:,}, not finished" if facts.state == "stopped" else "still training"
    if last:
        return f"{state}: {100 * last[-1]['accuracy']:.1f} % on val at step {last[-1]['step']:,}"
    return f"{state}: nothing measured" if facts.state == "stopped" else "nothing measured yet"


def _images(metrics: Mapping[str, Any]) -> str:
    # Runs of before counted those of val nowhere.
    return f"{metrics['count']:,} images" if "count" in metrics else "the images"


def _summary_rows(facts: Facts) -> list[dict[str, Any]]:
    """Returns a row for each metric that a split has: name, whether a share, and (value, interval) of each split."""
    splits = [split for split in ("val", "test") if split in facts.results]
    rows = []
    for key, name, share, interval in _SUMMARY:
        cells = []
        for split in splits:
            metrics = facts.results[split]
            bounds = metrics.get(interval) if interval == "accuracy_interval" else metrics.get("intervals", {})
            bounds = bounds.get(interval) if isinstance(bounds, Mapping) else bounds
            # Where all images are right, the bootstrap knows of no others: that is no interval.
            cells.append((_at(metrics, key), bounds if bounds and bounds[0] < bounds[1] else None))
        name = f"subset {name}" if key == "accuracy" and facts.several else name
        if any(value is not None for value, _ in cells):
            rows.append({"key": key, "name": name, "share": share, "cells": cells})
    return rows


def _at(metrics: Mapping[str, Any], key: str) -> float | None:
    section, _, rest = key.partition(".")
    if rest:
        return _at(metrics.get(section, {}), rest)
    found: float | None = metrics.get(key)
    return found


def _details(facts: Facts, charts: Mapping[str, Sequence[Markup]]) -> dict[str, Any]:
    """Returns what the page shows beside the summary."""
    metrics, predictions = facts.metrics, facts.predictions.get(facts.split)
    confusion = metrics.get("confusion_matrix")
    pairs = confused_pairs(np.asarray(confusion)) if confusion else []
    return {
        "members": members_of(facts.results),
        "learning": list(charts.get("learning", ())),
        "curves": [*charts.get("curves", ()), *_curves(facts, predictions)],
        "cards": _CARDS,
        "names_of_columns": {**_CLASS_COLUMNS, **(_THRESHOLD_COLUMNS if _thresholds(facts) else {})},
        "per_class": _per_class(facts),
        "confusion": confusion_chart(np.asarray(confusion), facts.classes) if confusion else None,
        "pairs": [(pair, _named(pair, facts), _examples(pair, facts, predictions)) for pair in pairs],
        "mistakes": _gallery(facts, predictions, "worst"),
        "uncertain": _gallery(facts, predictions, "uncertain"),
        "map": list(charts.get("map", ())),
        "near": _near(facts, predictions),
        "groups": facts.groups,
        "weights": _weights(facts.weights),
        "data": facts.data,
        "balance": balance_chart(facts.data) if facts.data else None,
        "sizes": facts.sizes,
    }


def _curves(facts: Facts, predictions: Classified | None) -> list[Markup]:
    if predictions is None:
        return []
    given = (predictions.labels, predictions.probabilities, facts.classes)
    return [chart for chart in (roc_chart(*given), precision_recall_chart(*given)) if chart is not None]


def _thresholds(facts: Facts) -> Mapping[str, float]:
    """Returns the thresholds of several labels an image by class; {} where none were chosen."""
    found: Mapping[str, float] = facts.results.get("thresholds", {}) if "at_thresholds" in facts.metrics else {}
    return found


def _per_class(facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the classes with their metrics, the weakest F1 first, and those without images last."""
    rows = list(facts.metrics.get("per_class", {}).items())
    if thresholds := _thresholds(facts):
        there = facts.metrics["at_thresholds"]["per_class"]
        rows = [
            (name, {**found, "threshold": thresholds.get(name), "f1_at_threshold": there[name]["f1"]})
            for name, found in rows
        ]
    return sorted(rows, key=lambda row: (not row[1]["count"], row[1]["f1"] or 0.0))


def _named(pair: Pair, facts: Facts) -> tuple[str, str]:
    return facts.classes[pair.actual], facts.classes[pair.predicted]


def _examples(pair: Pair, facts: Facts, predictions: Classified | None) -> list[Picture]:
    if predictions is None:
        return []
    return _pictures(facts, predictions, examples_of(pair, predictions))


def _gallery(facts: Facts, predictions: Classified | None, kind: str) -> list[Picture]:
    if predictions is None:
        return []
    if predictions.several:  # There is no second class that an image could nearly be.
        return _wrong_labels(facts, predictions) if kind == "worst" else []
    chosen = worst_mistakes(predictions) if kind == "worst" else least_certain(predictions.probabilities)
    return _pictures(facts, predictions, chosen)


def _wrong_labels(facts: Facts, predictions: Classified) -> list[Picture]:
    """Returns the images with a wrong label at the thresholds, those of the highest loss first."""
    thresholds, losses = _thresholds(facts), predictions.losses
    assert losses is not None
    decided = predictions.probabilities >= np.array([thresholds.get(name, 0.5) for name in facts.classes])

    def named(there: np.ndarray) -> str:
        return ", ".join(facts.classes[c] for c in np.flatnonzero(there)) or "no label"

    found = []
    for index in map(int, most_wrong_labels(predictions.labels, decided, losses)):
        image = facts.picture(facts.split, index)
        uri = "" if image is None else image_uri(image, side=_SIDE)
        actual, guessed = named(predictions.labels[index]), named(decided[index])
        found.append(Picture(uri, predictions.names[index], actual, guessed, loss=float(losses[index])))
    return found


def _pictures(facts: Facts, predictions: Classified, indices: np.ndarray) -> list[Picture]:
    classes, predicted = facts.classes, predictions.predicted
    found = []
    for index in map(int, indices):
        image = facts.picture(facts.split, index)
        label, guess = int(predictions.labels[index]), int(predicted[index])
        row = predictions.probabilities[index]
        uri = "" if image is None else image_uri(image, side=_SIDE)
        name = predictions.names[index]
        over = facts.overlays.get(name)
        over_uri = "" if over is None else image_uri(over, side=_SIDE)
        found.append(Picture(uri, name, classes[label], classes[guess], float(row[guess]), float(row[label]), over_uri))
    return found


def _near(facts: Facts, predictions: Classified | None) -> list[tuple[Picture, list[tuple[str, str, str]]]]:
    """Returns the worst mistakes, each with the training images nearest to it: (address, class, name)."""
    found = []
    for picture in _gallery(facts, predictions, "worst") if facts.neighbours else []:
        near = [
            ("" if each.picture is None else image_uri(each.picture, side=_SIDE), each.actual, each.name)
            for each in facts.neighbours.get(picture.name, ())
        ]
        if near:
            found.append((picture, near))
    return found


def _weights(report: Mapping[str, Any]) -> dict[str, str]:
    """Returns the load report in words, by what each part is about."""
    return LoadReport.from_json(report).rows() if report else {}
