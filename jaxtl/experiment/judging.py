"""The judge of a run: what its predictions are turned into, as it was asked for."""

from pathlib import Path

from jaxtl.deploy.judge import Judge, LabelJudge
from jaxtl.errors import UserError
from jaxtl.evaluate.rejection import SCORES
from jaxtl.evaluate.scaling import Scaling
from jaxtl.experiment import run_files as files


def make_judge(
    workdir: Path,
    classes: tuple[str, ...],
    step: int,
    *,
    calibrated: bool = False,
    reject_below: float | None = None,
    operating_points: bool = False,
) -> Judge | LabelJudge:
    """Returns what turns logits into lines; by default the likeliest class, with the model's own probabilities.

    Where images have several labels, those at or above the thresholds of the run.

    Args:
      workdir: of the run.
      classes: of its model.
      step: of the checkpoint that predicts.
      calibrated: whether probabilities are calibrated.
      reject_below: the least probability of a class.
      operating_points: whether operating_points.json decides; its probabilities are calibrated.

    Raises:
      UserError: what is asked for is not there, or of another model, or cannot be asked for together.
    """
    # What is imported here takes the half of a second, which those who want none of it need not wait for.
    if files.has_several(workdir):
        from jaxtl.experiment.thresholds import DEFAULT, read_thresholds

        if calibrated or operating_points or reject_below is not None:
            raise UserError(
                f"the images of {workdir} have several labels, each with a threshold of its own: do without "
                "--calibrated, --operating_points and --reject_below."
            )
        thresholds = read_thresholds(workdir)
        return LabelJudge(classes, [thresholds.get(name, DEFAULT) for name in classes])
    sigmoid = files.is_sigmoid(workdir)
    if operating_points:
        if reject_below is not None:
            raise UserError("--reject_below and --operating_points both say which images are of no class: give one.")
        return _at_operating_points(workdir, classes, step, sigmoid)
    scaling: Scaling | None = None
    if calibrated:
        from jaxtl.experiment.calibrating import check_fits, find_calibration

        scaling = check_fits(find_calibration(workdir), workdir, classes=len(classes), step=step).scaling
    return Judge(classes, sigmoid, scaling, reject_below)


def _at_operating_points(workdir: Path, classes: tuple[str, ...], step: int, sigmoid: bool) -> Judge:
    from jaxtl.experiment.calibrating import Calibration, check_fits
    from jaxtl.experiment.operating import NAME

    path = workdir / NAME
    again = "choose them with the operating_points command"
    if not path.exists():
        files.read_json(workdir / "config.json")  # What is no run at all is told as everywhere.
        raise UserError(f"there is no {path}: {again}, as in operating_points --workdir={workdir} --precision=0.95.")
    values = files.read_json(path)
    try:
        names, rule = tuple(values["classes"]), values["rule"]
        calibration = Calibration.from_json(values["calibration"])
        _check_rule(rule, names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as that command writes it ({error!r}): {again} again.") from None
    if names != classes:
        raise UserError(f"{path} is for other classes than the model of the run: {again} again.")
    if rule is None or rule.get("threshold", 0) is None:
        raise UserError(f"{path} holds no threshold, since none was wanted or reached: {again} again.")
    check_fits(calibration, workdir, classes=len(classes), step=step)
    return Judge(classes, sigmoid, calibration.scaling, rule=rule)


def _check_rule(rule: dict[str, object] | None, classes: tuple[str, ...]) -> None:
    """Sees that a rule has what `Judge` reads of it.

    Raises:
      ValueError, KeyError: it has not.
    """
    if rule is None:
        return
    kind = rule["kind"]
    if kind == "costs":
        costs = rule["costs"]
        good = isinstance(costs, list) and [len(row) for row in costs] == [len(classes)] * len(classes)
    elif kind in ("precision", "recall"):
        thresholds = rule["thresholds"]
        good = isinstance(thresholds, dict) and set(thresholds) == set(classes) and "wanted" in rule
    else:
        good = kind in ("accuracy", "coverage") and rule["by"] in SCORES and {"wanted", "threshold"} <= rule.keys()
    if not good:
        raise ValueError(f"a rule of the kind {kind!r}")
