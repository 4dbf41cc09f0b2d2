"""What a run has to say at its end: results.json, and the last lines on the screen."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.evaluate.metrics import detailed_headline, headline, wilson_interval
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.calibrating import calibration_line
from jaxtl.experiment.model import weights_location
from jaxtl.experiment.training_plan import Plan
from jaxtl.train.progress import Progress
from jaxtl.train.screen import duration, epoch_of


def results_of(experiment: Experiment, step: int, progress: Progress) -> dict[str, Any]:
    """Returns what results.json holds of a run that has trained, but for the test split."""
    return {
        "model": experiment.model.name,
        "weights": weights_location(experiment.config),
        "data": experiment.config.data.source,
        "classes": list(experiment.model.classes),
        "loss": experiment.loss_name,
        "parameters": experiment.plan.counts,
        "steps": step,
        "best_step": progress.best_step,
        "steps_per_epoch": experiment.steps_per_epoch,
        "stopped_early": _stopped_early(experiment, step, progress),
        "monitor": experiment.config.train.monitor,
        "seconds": {},
        "train": {
            "images_per_second": progress.images / max(progress.seconds["train"], 1e-9),
            "loss": progress.train.get("loss"),
            "skipped": progress.skipped,
        },
        "cost": _costs(experiment.plan, progress),
        "val": _with_interval(progress.val, len(experiment.splits.val)),
    } | ({"ema": {"decay": experiment.config.train.ema_decay, **progress.both}} if progress.both else {})


def _with_interval(metrics: Mapping[str, float], count: int) -> dict[str, Any]:
    """Returns the metrics on val with the number of images, and how sure that makes the accuracy."""
    if not count or "accuracy" not in metrics:
        return {**metrics, "count": count}
    interval = wilson_interval(round(metrics["accuracy"] * count), count)
    return {**metrics, "accuracy_interval": interval, "count": count}


def _costs(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Returns the cost of the last stage's step, and where there are several stages, of each."""
    stages = [progress.costs[str(stage.start)] for stage in plan.stages if str(stage.start) in progress.costs]
    return {**stages[-1], **({"stages": stages} if len(plan.stages) > 1 else {})} if stages else {}


# Images from which on intervals by the bootstrap, and what calibration does, are shown.
_ENOUGH = 30


def report(results: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Prints the last lines of a run, and returns its results."""
    print("\n".join(closing_lines(results, workdir)), flush=True)
    return results


def closing_lines(results: Mapping[str, Any], workdir: Path) -> list[str]:
    """Returns what a run ends with: its metrics, its best checkpoint, its speed, and the command that comes next."""
    splits = [split for split in ("val", "test") if split in results]
    lines = [line for split in splits for line in metric_lines(split, results[split], detailed=split == splits[-1])]
    calibration = results.get("calibration", {})
    if calibration.get("count", 0) >= _ENOUGH:
        lines.append(calibration_line(calibration))
    never = never_predicted(results.get("test", {}))
    if never:
        lines.append(f"never     predicted on test: {', '.join(never)}")
    lines += _of_training(results) if "train" in results else []
    lines.append(f"results   {workdir / 'results.json'}")
    if (workdir / "report" / "index.html").exists():
        lines.append(f"report    {workdir / 'report' / 'index.html'}")
    lines.append(f"next      python -m jaxtl.main predict --workdir={shlex.quote(str(workdir))} PHOTO_OR_FOLDER")
    return lines


def _of_training(results: Mapping[str, Any]) -> list[str]:
    """Returns which checkpoint was the best, and how fast the run was; what was put together of runs has neither."""
    per_epoch = results.get("steps_per_epoch")
    epoch = f" (epoch {epoch_of(results['best_step'], per_epoch)})" if per_epoch else ""
    how = "the last, as train.monitor says" if results["monitor"] == "last" else f"by {results['monitor']} on val"
    lines = [f"best      step {results['best_step']} of {results['steps']}{epoch}, {how}"]
    if "head_start" in results:
        lines.append(f"probe     {_gain(results)}")
    if results.get("stopped_early"):
        lines.append(f"stopped   {results['stopped_early']}")
    seconds = results["seconds"]
    # Runs from before this was measured have no "data".
    waiting = 100 * seconds["data"] / max(seconds["train"], 1e-9) if "data" in seconds else None
    share = "" if waiting is None else f", at most {waiting:.1f} % of it waiting for data"
    speed = f"{results['train']['images_per_second']:.1f} images/s in training{share}"
    return [*lines, f"time      {duration(seconds['total'])} in all; {speed}"]


def _gain(results: Mapping[str, Any]) -> str:
    """Returns what training brought over the linear classifier that the head started from, in words."""
    if not results["best_step"]:
        return (
            "nothing was better on val than the linear classifier of the pretrained features that the head started "
            "from, which is kept: lower optimizer.learning_rate, or train for longer"
        )
    before, after = results["head_start"]["val"], results["val"]
    text = (
        f"on val the linear classifier that the head started from had {100 * before['accuracy']:.1f} % and a loss of "
        f"{before['loss']:.4g}; now it is {100 * after['accuracy']:.1f} % and {after['loss']:.4g}"
    )
    if after["accuracy"] >= before["accuracy"]:
        return text
    return f"{text}: the head alone, --config.finetune.unfreeze=head, may be the better model"


def metric_lines(split: str, metrics: Mapping[str, Any], *, detailed: bool = True) -> list[str]:
    """Returns the metrics on a split for a person, in one line, or in two where they are detailed."""
    # Runs from before these were measured have none. Of a few images the bootstrap says too much: where all are right,
    # it knows of no others.
    told = detailed and "intervals" in metrics and metrics["count"] >= _ENOUGH
    second = [f"{'':<10}{detailed_headline(metrics)}"] if told else []
    return [f"{split:<10}{headline(metrics)}", *second]


def never_predicted(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the classes that have images and no prediction, right or wrong, in an evaluation; at most ten."""
    confusion = metrics.get("confusion_matrix")
    if not confusion:
        return []
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    names = list(metrics["per_class"])
    return [name for name, row, count in zip(names, confusion, predicted, strict=True) if sum(row) and not count][:10]


def _stopped_early(experiment: Experiment, step: int, progress: Progress) -> str:
    """Returns why a run ended before its last step, or ""."""
    if step >= experiment.plan.total_steps:
        return ""
    monitor = experiment.config.train.monitor
    better = "lower" if monitor == "loss" else "higher"
    return (
        f"early, at step {step} of {experiment.plan.total_steps}: no {better} {monitor} on val in "
        f"{progress.waited} evaluations"
    )
