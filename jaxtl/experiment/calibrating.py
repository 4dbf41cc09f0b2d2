"""The calibration of a run: fitted to its logits on val, kept in calibration.json, and found again by who uses it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError
from jaxtl.evaluate.predictions import Predictions, read_predictions
from jaxtl.evaluate.scaling import Quality, Scaling, fit, fit_temperature, quality
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.measuring import Measured
from jaxtl.experiment.run_files import fitted_to_val
from jaxtl.experiment.run_files import has_several as has_several
from jaxtl.experiment.run_files import is_sigmoid as is_sigmoid

NAME = "calibration.json"
# On which split it is fitted: no image of it trained the model.
_SPLIT = "val"


@dataclass(frozen=True)
class Calibration:
    """The calibration of a run.

    Attributes:
      scaling: of its logits.
      count: the number of images that it was fitted to.
      step: of the checkpoint that gave the logits; None if nobody knows.
    """

    scaling: Scaling
    count: int
    step: int | None

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return {**self.scaling.to_json(), "fitted_on": _SPLIT, "count": self.count, "step": self.step}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Calibration":
        """Reads what `to_json` gave.

        Raises:
          ValueError, KeyError, TypeError: it is something else.
        """
        return cls(Scaling.from_json(values), int(values["count"]), values["step"])


def calibrate(experiment: Experiment, workdir: Path, measured: Mapping[str, Measured], *, step: int) -> dict[str, Any]:
    """Fits the calibration of a run that has trained, and writes calibration.json.

    It is fitted to the logits of predictions.npz, rounded as they are there, so that all numbers can be computed again.

    Args:
      experiment: of the run, whose config says how.
      workdir: of the run.
      measured: what was found on val, and on test, which is measured only.
      step: of the checkpoint that was measured.

    Returns:
      What results.json holds of it, {"calibration": ...}; {} where nothing was asked for, or val has no logits.
    """
    method = experiment.config.eval.calibration
    kept = {name: _predictions(name, found) for name, found in measured.items() if found.arrays}
    if method == "none" or _SPLIT not in kept:
        return {}
    if kept[_SPLIT].several:
        print("note      several labels an image are not calibrated: their sigmoids stay as they were trained")
        return {}
    return _fit_and_write(workdir, method, kept, step=step, sigmoid=experiment.loss_name == "binary")


def recalibrate(workdir: Path, method: str) -> dict[str, Any]:
    """Fits the calibration of a finished run anew, from predictions.npz; writes calibration.json and results.json.

    Args:
      workdir: of the run.
      method: one of `scaling.METHODS`.

    Returns:
      What results.json holds now.

    Raises:
      UserError: the run kept no predictions on val.
    """
    path = workdir / "predictions.npz"
    _, kept = read_predictions(path)
    if val_of(path, kept).several:
        raise UserError(f"{path} holds several labels an image, which are not calibrated: their sigmoids stay.")
    results = files.read_json(workdir / "results.json")
    kept = {name: each for name, each in kept.items() if len(each.labels)}
    results |= _fit_and_write(workdir, method, kept, step=results["best_step"], sigmoid=is_sigmoid(workdir))
    files.write_json(workdir / "results.json", results)
    return results


def _fit_and_write(
    workdir: Path, method: str, kept: Mapping[str, Predictions], *, step: int, sigmoid: bool
) -> dict[str, Any]:
    """Writes calibration.json, and returns what results.json holds of it."""
    val = kept[_SPLIT]
    calibration = Calibration(fit(method, val.labels, val.logits, sigmoid=sigmoid), len(val.labels), step)
    found = {
        name: [quality(each.labels, each.logits, scaling, sigmoid=sigmoid) for scaling in (None, calibration.scaling)]
        for name, each in kept.items()
    }

    def with_bins(each: Quality) -> dict[str, Any]:
        return {**each.summary(), "reliability": each.reliability.to_json()}

    of_splits = {
        name: dict(zip(("before", "after"), map(with_bins, both), strict=True)) for name, both in found.items()
    }
    files.write_json(workdir / NAME, {**calibration.to_json(), **of_splits})
    short = {key: value for key, value in calibration.to_json().items() if key not in ("scale", "bias", "step")}
    summaries = {name: {"before": both[0].summary(), "after": both[1].summary()} for name, both in found.items()}
    in_sample = {"in_sample": True} if fitted_to_val(workdir) else {}
    return {"calibration": {**short, **in_sample, **summaries}}


def _predictions(split: str, found: Measured) -> Predictions:
    return Predictions(*(found.arrays[f"{split}_{key}"] for key in ("names", "labels", "logits")))


def calibration_line(found: Mapping[str, Any]) -> str:
    """Returns what the calibration of results.json does, for a person.

    >>> ece = {"before": {"ece": 0.062}, "after": {"ece": 0.031}}
    >>> calibration_line({"method": "temperature", "temperature": 1.31, "note": "", "fitted_on": "val", "test": ece})
    'calibrated temperature 1.31 fitted on val: ECE on test 6.2 -> 3.1 %'
    """
    split = "test" if "test" in found else _SPLIT
    before, after = (100 * found[split][when]["ece"] for when in ("before", "after"))
    what = "a scale and a bias for each class" if found["method"] == "vector" else in_words(found["temperature"])
    note = f" ({found['note']})" if found["note"] else ""
    same = ", to which the ensemble was fitted, too" if found.get("in_sample") else ""
    line = f"calibrated {what} fitted on {found['fitted_on']}{same}{note}: ECE on {split} {before:.1f} -> {after:.1f} %"
    losses = [found[split][when].get("log_loss", 0.0) for when in ("before", "after")]
    if losses[1] <= losses[0]:
        return line
    return f"{line}; worse on {split}: log loss {losses[0]:.4g} -> {losses[1]:.4g}; predict without --calibrated"


def in_words(temperature: float) -> str:
    """Returns a temperature for a person.

    >>> in_words(1.3149)
    'temperature 1.31'
    """
    return f"temperature {temperature:#.3g}"


def read_calibration(workdir: Path) -> Calibration | None:
    """Reads calibration.json; None if the run has none.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / NAME
    if not path.exists():
        return None
    values = files.read_json(path)
    try:
        return Calibration.from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not as train writes it ({error}): delete it, and a temperature is fitted from predictions.npz."
        ) from None


def find_calibration(workdir: Path) -> Calibration:
    """Reads calibration.json; of a run without one, fits a temperature to predictions.npz, and says so on stderr.

    Raises:
      UserError: a file cannot be read, or the run has neither.
    """
    refuse_several(workdir, "calibration is")
    if calibration := read_calibration(workdir):
        return calibration
    path = workdir / "predictions.npz"
    if not path.exists():
        raise UserError(_why_none(workdir))
    val = val_of(path, read_predictions(path)[1])
    scaling = fit_temperature(val.labels, val.logits, sigmoid=is_sigmoid(workdir))
    note = f" ({scaling.note})" if scaling.note else ""
    print(
        f"note: {workdir} has no {NAME}, so one was fitted now: {in_words(scaling.temperature)}{note} of the "
        f"{len(val.labels)} images of {_SPLIT} in predictions.npz",
        file=sys.stderr,
    )
    results = workdir / "results.json"
    return Calibration(
        scaling, len(val.labels), files.read_json(results).get("best_step") if results.exists() else None
    )


def refuse_several(workdir: Path, what: str) -> None:
    """Raises a UserError if the run has several labels an image; `what` begins its message, as in "calibration is"."""
    if has_several(workdir):
        raise UserError(
            f"{what} for one label an image, and the images of {workdir} have several, or none: its results.json has a "
            "threshold for each label."
        )


def val_of(path: Path, splits: Mapping[str, Predictions]) -> Predictions:
    """Returns the predictions on val, by which everything is chosen.

    Raises:
      UserError: there are none.
    """
    if _SPLIT not in splits or not len(splits[_SPLIT].labels):
        there = f"; it has {', '.join(splits)}" if splits else ""
        raise UserError(
            f"{path} has no images of {_SPLIT}{there}. Calibration and operating points are chosen on {_SPLIT}: give "
            "the --workdir of a run that has trained."
        )
    return splits[_SPLIT]


def check_fits(calibration: Calibration, workdir: Path, *, classes: int, step: int) -> Calibration:
    """Returns the calibration if it is of so many classes and of the checkpoint of that step.

    Raises:
      UserError: it is of others.
    """
    scaling = calibration.scaling
    if scaling.scale and len(scaling.scale) != classes:
        raise UserError(f"the calibration of {workdir} is for {len(scaling.scale)} classes, the model has {classes}.")
    if calibration.step is not None and calibration.step != step:
        raise UserError(
            f"the calibration of {workdir} was fitted at step {calibration.step}, but the best checkpoint there is of "
            f"step {step} now, to which it says nothing: do without."
        )
    return calibration


def calibration_to_export(
    workdir: Path, *, classes: int, step: int, folded: bool
) -> tuple[Scaling | None, dict[str, Any] | None]:
    """Returns what is folded into an exported model, if anything, and what the file says of its calibration.

    Args:
      workdir: of the run.
      classes: of its model.
      step: of the checkpoint that is exported.
      folded: whether it is asked for; else weights stay as they were trained, and the file only says what was fitted.

    Raises:
      UserError: it is asked for, and there is none, or one that does not fit; or calibration.json cannot be read.
    """
    reading = _reading_of_logits(workdir)
    if folded:
        calibration = check_fits(find_calibration(workdir), workdir, classes=classes, step=step)
        return calibration.scaling, {**calibration.to_json(), **reading, "folded_into_weights": True}
    there = read_calibration(workdir)
    if there is None or there.step != step:
        return None, reading or None
    return None, {**there.to_json(), **reading, "folded_into_weights": False}


def _reading_of_logits(workdir: Path) -> dict[str, Any]:
    """Returns what a file must say for its logits to be read as the run reads them; {} where a softmax does."""
    if not has_several(workdir):
        return {"sigmoid": True} if is_sigmoid(workdir) else {}
    results = workdir / "results.json"
    thresholds = files.read_json(results).get("thresholds") if results.exists() else None
    return {"sigmoid": True, "several_labels": True, "thresholds": dict(thresholds or {})}


def _why_none(workdir: Path) -> str:
    if not (workdir / "results.json").exists():
        files.read_json(workdir / "config.json")  # What is no run at all is told as everywhere.
        return f"the run in {workdir} is not finished: its calibration is fitted at its end. Go on with it first."
    return f"{workdir} has no {NAME}, and no predictions.npz to fit one from: its logits on {_SPLIT} were not kept."
