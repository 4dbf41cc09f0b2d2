"""The operating points of a run: chosen on val from what it kept of its predictions, and measured on test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.errors import UserError, writing
from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.metrics import percent_interval, wilson_interval
from jaxtl.evaluate.operating_points import above_threshold, measure_costs, precision_threshold, recall_threshold
from jaxtl.evaluate.predictions import Predictions, read_predictions
from jaxtl.evaluate.rejection import CoverageCurve, coverage_curve, energy, has_energy, table
from jaxtl.evaluate.scaling import Scaling
from jaxtl.experiment import workdir as files
from jaxtl.experiment.calibrating import find_calibration, is_sigmoid, refuse_several, val_of
from jaxtl.experiment.cost_file import read_costs
from jaxtl.experiment.run_files import fitted_to_val

NAME = "operating_points.json"
SHARES = ("precision", "recall", "accuracy", "coverage")
"""What may be wanted: the first two of each class, the others of the images that are kept."""


@dataclass(frozen=True)
class Wanted:
    """What an operating point is to reach.

    Attributes:
      kind: one of `SHARES`, "costs", or "" for the coverage curves alone.
      share: the least precision, recall, accuracy or coverage, above 0 and at most 1.
      by: one of `rejection.SCORES`: what tells which images are put aside, for accuracy and coverage; "": confidence.
      costs: the file that says what decisions cost.
    """

    kind: str = ""
    share: float = 0.0
    by: str = ""
    costs: Path | None = None


@dataclass(frozen=True)
class _Split:
    """Predictions on N images, calibrated.

    Attributes:
      labels: the true classes [N].
      probabilities: [N, C].
      predicted: the likeliest classes, by the logits: of two sigmoids that are both rounded to 1, one is the likelier
        all the same [N].
      scores: by the names of `rejection.SCORES`, how sure the model is [N].
    """

    labels: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray
    scores: dict[str, np.ndarray]

    @property
    def correct(self) -> np.ndarray:
        """Whether the likeliest class is the true one [N]."""
        return self.predicted == self.labels


def choose_operating_points(workdir: Path, wanted: Wanted) -> dict[str, Any]:
    """Chooses them on val, measures them on test if the run has one, and writes operating_points.json.

    Where nothing is wanted, only the coverage curves are found, and the file stays as it is.

    It reads predictions.npz and calibration.json alone, besides the config of the run.

    Returns:
      what the file holds: "classes", "calibration", "rule" (what `deploy.judge` applies; None if nothing was wanted),
      "chosen_on"; "in_sample" where the run is an ensemble that was fitted there, too; of "val" and "test" what the
      rule reaches there; and "rejection", points of the coverage curves.

    Raises:
      UserError: the run kept no predictions on val, or what is wanted cannot be said of them.
    """
    if wanted.by and wanted.kind not in ("accuracy", "coverage"):
        raise UserError(f"--by={wanted.by} says what puts images aside: give it with --accuracy or --coverage.")
    if wanted.kind in SHARES and not 0 < wanted.share <= 1:
        percent = f": {wanted.share / 100:g} is {wanted.share:g} %" if 1 < wanted.share <= 100 else ""
        raise UserError(f"--{wanted.kind} is {wanted.share:g}, but it must be above 0 and at most 1{percent}.")
    refuse_several(workdir, "operating points are")
    path = workdir / "predictions.npz"
    classes, kept = read_predictions(path)
    val_of(path, kept)
    costs = None if wanted.costs is None else read_costs(wanted.costs, classes)
    sigmoid, calibration = is_sigmoid(workdir), find_calibration(workdir)
    if calibration.scaling.scale and len(calibration.scaling.scale) != len(classes):
        raise UserError(f"calibration.json and predictions.npz of {workdir} are of other classes: train again.")
    splits: dict[str, _Split] = {}
    for name in ("val", "test"):
        if name in kept and len(kept[name].labels):
            splits[name] = _split(kept[name], calibration.scaling, sigmoid=sigmoid)
            if has_energy(kept["val"].logits):
                splits[name].scores["energy"] = energy(kept[name].logits, sigmoid=sigmoid)
    if (wanted.by or "confidence") not in splits["val"].scores:
        raise UserError(f"one logit for two classes has no energy: give --by=confidence for the run in {workdir}.")
    rule, measure = _choose(wanted, splits["val"], classes, costs)
    found = {
        "classes": list(classes),
        "calibration": calibration.to_json(),
        "chosen_on": "val",
        **({"in_sample": True} if fitted_to_val(workdir) else {}),
        "rule": rule,
        **({name: measure(split) for name, split in splits.items()} if rule else {}),
        "rejection": {
            score: {name: table(_curve(split, score)) for name, split in splits.items()}
            for score in splits["val"].scores
        },
    }
    path = workdir / NAME
    if rule is not None:
        with writing(path):
            files.write_whole(path, files.to_text(found))
    return found


def _split(kept: Predictions, scaling: Scaling, *, sigmoid: bool) -> _Split:
    logits = scaling.apply(kept.logits)
    # By the function that predictions take, of logits rounded as theirs are: a threshold is one of these numbers, to
    # the last bit.
    probabilities = to_probabilities(logits, sigmoid=sigmoid)
    return _Split(kept.labels, probabilities, logits.argmax(1), {"confidence": probabilities.max(1)})


def _curve(split: _Split, score: str) -> CoverageCurve:
    return coverage_curve(split.scores[score], split.correct)


def _choose(
    wanted: Wanted, val: _Split, classes: tuple[str, ...], costs: np.ndarray | None
) -> tuple[dict[str, Any] | None, Callable[[_Split], dict[str, Any]]]:
    """Returns the rule, as plain values, and what measures it on a split."""
    if costs is not None:
        rule = {"kind": "costs", "costs": costs.tolist()}
        return rule, lambda split: {
            **measure_costs(split.labels, split.probabilities, split.predicted, costs).to_json(),
            "count": len(split.labels),
        }
    if wanted.kind in ("precision", "recall"):
        find = precision_threshold if wanted.kind == "precision" else recall_threshold
        thresholds = {
            name: find(val.probabilities[:, c], val.labels == c, wanted.share) for c, name in enumerate(classes)
        }
        rule = {"kind": wanted.kind, "wanted": wanted.share, "thresholds": thresholds}
        return rule, lambda split: {
            name: above_threshold(split.probabilities[:, c], split.labels == c, threshold).to_json()
            for c, (name, threshold) in enumerate(thresholds.items())
            if threshold is not None
        }
    if not wanted.kind:
        return None, lambda split: {}
    by = wanted.by or "confidence"
    curve = _curve(val, by)
    accuracy = wanted.kind == "accuracy"
    cut = curve.threshold_for_accuracy(wanted.share) if accuracy else curve.threshold_for_coverage(wanted.share)
    rule = {"kind": wanted.kind, "wanted": wanted.share, "by": by, "threshold": cut}
    return rule, lambda split: _kept(split, by, cut)


def _kept(split: _Split, score: str, threshold: float | None) -> dict[str, Any]:
    """Returns how many images are kept at or above a threshold, and how many of them are right."""
    count = len(split.labels)
    if threshold is None:
        return {"coverage": 0.0, "kept": 0, "count": count, "accuracy": None, "accuracy_interval": None}
    kept = split.scores[score] >= threshold
    number, right = int(kept.sum()), int((kept & split.correct).sum())
    return {
        "coverage": number / count,
        "kept": number,
        "count": count,
        "accuracy": right / number if number else None,
        "accuracy_interval": wilson_interval(right, number) if number else None,
    }


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """Returns what `choose_operating_points` found as tables for a person."""
    rule = found["rule"]
    splits = [name for name in ("val", "test") if name in next(iter(found["rejection"].values()))]
    made = found["calibration"]
    how = f"temperature {made['temperature']:#.3g}" if made["method"] == "temperature" else "vector scaling"
    lines = [f"probabilities are calibrated ({how}); chosen on val" + ", measured on test" * ("test" in splits)]
    if found.get("in_sample"):
        lines.append("note: the ensemble was fitted to val, too, so what is told of val is too good: see test")
    if rule is None:
        lines.append(
            f"nothing is wanted, so no threshold is chosen, and no {NAME} is written: give --precision, --recall, "
            "--accuracy, ..."
        )
    elif rule["kind"] == "costs":
        lines += _cost_lines(found, splits)
    elif "thresholds" in rule:
        lines += _class_lines(found, splits)
    else:
        lines += _kept_lines(found, splits)
    return [*lines, "", *_curve_lines(found["rejection"])]


def _class_lines(found: Mapping[str, Any], splits: list[str]) -> list[str]:
    rule = found["rule"]
    head = ["class", "threshold", *(f"{key} on {name}" for name in splits for key in ("precision", "recall", "above"))]
    rows = [head]
    for name, threshold in rule["thresholds"].items():
        if threshold is None:
            rows.append([name, "none", "not reached"])
            continue
        at = [found[split][name] for split in splits]
        cells = [[_percent(one["precision"]), _percent(one["recall"]), f"{one['above']:,}"] for one in at]
        rows.append([name, f"{threshold:.4f}", *(cell for three in cells for cell in three)])
    return [f"{rule['kind']} of at least {100 * rule['wanted']:g} % for each class", *_aligned(rows)]


def _kept_lines(found: Mapping[str, Any], splits: list[str]) -> list[str]:
    rule = found["rule"]
    what = f"{rule['kind']} of at least {100 * rule['wanted']:g} %"
    if rule["threshold"] is None:
        return [f"{what} of what is kept is not reached on val, at no {rule['by']}: nothing would be kept"]
    rows = [["", "kept", "accuracy of it"]]
    for split in splits:
        one = found[split]
        interval = f" (95 % interval {percent_interval(one['accuracy_interval'])})" if one["kept"] else ""
        kept = f"{_percent(one['coverage'])} ({one['kept']:,} of {one['count']:,})"
        rows.append([split, kept, f"{_percent(one['accuracy'])}{interval}"])
    return [f"{what}: none of these below {rule['by']} {rule['threshold']:.4f}", *_aligned(rows)]


def _cost_lines(found: Mapping[str, Any], splits: list[str]) -> list[str]:
    rows = [["cost an image", "decided", "as expected", "likeliest class", "decided otherwise"]]
    for split in splits:
        one = found[split]
        numbers = [f"{one[key]:.4g}" for key in ("cost", "expected_cost", "cost_of_the_likeliest")]
        rows.append([split, *numbers, f"{one['changed']:,} of {one['count']:,}"])
    return _aligned(rows)


def _curve_lines(rejection: Mapping[str, Any]) -> list[str]:
    shares = list(next(iter(rejection["confidence"].values()))["accuracy_at"])
    rows = [["accuracy of what is kept", *(f"{100 * float(share):g} %" for share in shares), "AURC"]]
    for score, of_splits in rejection.items():
        for split, one in of_splits.items():
            accuracies = [_percent(one["accuracy_at"][share]) for share in shares]
            rows.append([f"by {score}, {split}", *accuracies, f"{one['aurc']:.4f}"])
    return _aligned(rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Returns rows of cells as lines: the first column to the left, the others to the right."""
    count = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(count)]
    return [
        "  ".join(f"{cell:<{widths[i]}}" if i == 0 else f"{cell:>{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
