"""The page of a cross-validation: its metrics with intervals, each fold, each class, and the images that are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl import data
from jaxtl.evaluate.cross_validation import TestFold
from jaxtl.evaluate.details import probabilities_of
from jaxtl.experiment.fold_table import TITLES, few_results, headline, share_in_words
from jaxtl.experiment.thumbnails import thumbnail
from jaxtl.report.confusion import confusion_chart
from jaxtl.report.fold_chart import fold_chart
from jaxtl.report.page import public_location, render

NAME = "crossval.html"
# Images that are shown; classes that are listed.
_IMAGES, _CLASSES = 60, 300


def fold_page(results: Mapping[str, Any], tested: Sequence[TestFold], images: data.Dataset, *, sigmoid: bool) -> str:
    """Returns the page.

    Args:
      results: what crossval.json holds.
      tested: what was said of each fold.
      images: those that were cut into folds, with their classes.
      sigmoid: whether each class has a probability of its own.
    """
    folds, confusion = results["per_fold"], results["confusion_matrix"]
    wrong = wrong_images(tested, sigmoid=sigmoid)
    place = {name: i for i, name in enumerate(images.names)}
    accuracy = results["metrics"]["accuracy"]
    per_class = sorted(results["per_class"].items(), key=lambda item: _mean(item[1]["recall"]))
    values: dict[str, Any] = {
        "headline": headline(results),
        "few": few_results(results),
        "data": public_location(results["data"]),
        "model": results["model"],
        "accuracy": share_in_words(accuracy),
        "metrics": [
            {"title": title, "of": results["metrics"][key], "share": key != "log_loss"} for key, title in TITLES.items()
        ],
        "chart": fold_chart(
            [[fold["accuracy"] for fold in folds if fold["repeat"] == r + 1] for r in range(results["repeats"])],
            accuracy["mean"],
            accuracy["interval"],
        ),
        "folds": folds,
        "repeats": results["repeats"],
        "classes": per_class[:_CLASSES],
        "classes_left_out": max(len(per_class) - _CLASSES, 0),
        "confusion": None if confusion is None else confusion_chart(np.asarray(confusion), images.classes),
        "wrong": len(wrong),
        "cards": [
            {
                "name": each["name"],
                "picture": thumbnail(images, place[each["name"]]),
                "label": images.classes[each["label"]],
                "predicted": images.classes[each["predicted"]],
                "times": each["times"],
                "probability": each["probability"],
            }
            for each in wrong[:_IMAGES]
        ],
    }
    return render("crossval.html", values)


def wrong_images(tested: Sequence[TestFold], *, sigmoid: bool = False) -> list[dict[str, Any]]:
    """Returns the images that were wrong in any repeat, by how often, and then by how unlikely their class was.

    Returns:
      Of each "name", "label", "predicted" (most often where it was wrong), "times" it was wrong, and "probability" of
      its class, the mean over repeats.
    """
    said: dict[str, list[tuple[int, int, float]]] = {}
    for fold in tested:
        probabilities, _ = probabilities_of(fold.labels, fold.logits, sigmoid=sigmoid)
        right = probabilities[np.arange(len(fold.labels)), fold.labels]
        predicted = fold.logits.argmax(1)
        for i, name in enumerate(fold.names):
            said.setdefault(name, []).append((int(fold.labels[i]), int(predicted[i]), float(right[i])))
    found = []
    for name, rows in said.items():
        wrong = [taken_for for label, taken_for, _ in rows if taken_for != label]
        if wrong:
            mean = float(np.mean([row[2] for row in rows]))
            most = int(np.bincount(wrong).argmax())
            found.append(
                {"name": name, "label": rows[0][0], "predicted": most, "times": len(wrong), "probability": mean}
            )
    return sorted(found, key=lambda each: (-each["times"], each["probability"], each["name"]))


def _mean(of: Mapping[str, Any] | None) -> float:
    return 2.0 if of is None else float(of["mean"])  # Classes without images come last.
