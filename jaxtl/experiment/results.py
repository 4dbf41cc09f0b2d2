"""What a run has to say at its end: results.json, and the last lines on the screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.evaluate.metrics import headline, wilson_interval
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.training_plan import Plan
from jaxtl.train.progress import Progress


def results_of(experiment: Experiment, step: int, progress: Progress) -> dict[str, Any]:
    """Returns what results.json holds of a run that has trained, but for the test split."""
    return {
        "model": experiment.model.name,
        "weights": experiment.config.model.weights,
        "data": experiment.config.data.source,
        "classes": list(experiment.model.classes),
        "loss": experiment.loss_name,
        "parameters": experiment.plan.counts,
        "steps": step,
        "best_step": progress.best_step,
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


def report(results: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Prints the last lines of a run, and returns its results."""
    for split in ("val", "test"):
        if split in results:
            print(f"{split:5}  {headline(results[split])}")
    seconds = results["seconds"]
    # Runs from before this was measured have no "data".
    waiting = 100 * seconds["data"] / max(seconds["train"], 1e-9) if "data" in seconds else None
    share = "" if waiting is None else f", at most {waiting:.1f} % of it waiting for data"
    print(
        f"best step {results['best_step']} of {results['steps']}, by {results['monitor']} on val; "
        f"{seconds['total']:.0f} s in all; {results['train']['images_per_second']:.1f} images/s in training{share}; "
        f"{workdir / 'results.json'}"
    )
    return results
