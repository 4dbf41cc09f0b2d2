"""What a person reads of a run before its first step: weights, data, what trains, and for how long."""

import math
from collections.abc import Mapping

import numpy as np

from jaxtl.data import Dataset, Splits
from jaxtl.data.remarks import count_classes
from jaxtl.data.sampling import quotas
from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import Stage

# How many times as many images a class may have as another before it is worth a word.
_LOPSIDED = 10
# So many classes are counted one by one.
_FEW = 3


def opening_lines(experiment: Experiment) -> list[str]:
    """Returns the lines before the first step; `describe` and weights.json hold the details."""
    report, plan = experiment.load_report, experiment.plan
    pixels = experiment.model.pixels
    origin = "as the weights expect" if report is not None and report.pixels else "by default"
    lines = [] if report is None else report.summary()
    if report is None:
        lines.append(_row("weights", f"none: {experiment.model.name} starts from random numbers"))
    lines.append(_row("images", f"{pixels.size} x {pixels.size} pixels, normalised {origin}"))
    if preset := options.preset_in_words(experiment.given or experiment.config, experiment.config):
        lines.append(_row("augment", preset))
    lines.append(_row("data", f"{experiment.config.data.source}: {split_sizes(experiment.splits)}"))
    lines += [_row("note", note) for note in (*experiment.splits.notes, *plan.notes)]
    counts = plan.counts
    trained = f"{counts['trainable']:,} of {counts['total']:,} parameters"
    lines.append(_row("training", f"{trained_groups(plan)} of {experiment.model.name}: {trained}"))
    if report is None and counts["frozen"]:
        lines.append(_row("note", "what is frozen is random and stays so: give weights, or train everything"))
    lines += [_row("note", note) for note in _imbalance(experiment)]
    weights = experiment.splits.train.weights
    if weights is not None:
        lines.append(_row("weighed", f"an image counts {weights.min():.3g} to {weights.max():.3g} times in training"))
    if experiment.splits.train.sampling:
        lines.append(_row("sampling", _sampling(experiment.splits.train)))
    lines.append(_row("schedule", _schedule(experiment)))
    return lines


def _imbalance(experiment: Experiment) -> list[str]:
    """Returns a note where a class has a tenth of the images of another or less, and nothing weighs them."""
    train = experiment.splits.train
    counts = train.class_counts()
    weighed = experiment.config.train.class_weights or train.sampling
    if not len(train) or counts.min() * _LOPSIDED > counts.max() or weighed:
        return []
    rare, common = train.classes[int(counts.argmin())], train.classes[int(counts.argmax())]
    if train.several:
        return [f"{counts.min():,} images with {rare} against {counts.max():,} with {common}"]
    return [
        f"{counts.min():,} images of {rare} against {counts.max():,} of {common}: "
        "--config.train.class_weights=balanced weighs them alike"
    ]


def _sampling(train: Dataset) -> str:
    """Says how often an epoch shows the images of the rarest and of the commonest class."""
    counts = train.class_counts()
    shown = quotas(counts, train.sampling)
    there = np.flatnonzero(counts)
    rare, common = there[counts[there].argmin()], int(counts.argmax())
    rates = (f"{train.classes[c]} {shown[c] / counts[c]:.3g} times" for c in dict.fromkeys((int(rare), common)))
    return f"{train.sampling}: an epoch shows an image of {', one of '.join(rates)}"


def split_sizes(splits: Splits) -> str:
    """Returns the number of images and classes, as "79 to train, 13 to validate, 8 to test (4 ants, 4 bees)"."""
    classes = splits.train.classes
    parts = [f"{len(splits.train):,} to train", f"{len(splits.val):,} to validate"]
    parts.append(f"{len(splits.test):,} to test" if splits.test is not None else "none to test")
    text = ", ".join(parts)
    last = splits.test if splits.test is not None else splits.val
    if len(classes) > _FEW:
        return f"{text}; {len(classes)} classes"
    return f"{text} ({count_classes(last)})"


def trained_groups(plan: Plan) -> str:
    """Returns what trains in any stage, in words: "everything", "the head", or the names of the groups."""
    labels = plan.labels
    groups = list(dict.fromkeys(plan.assignment.values()))
    trained = [group for group in groups if group in labels.values()]
    if FROZEN not in labels.values():
        return "everything"
    if trained == ["head"]:
        return "the head"
    whole = [group for group in trained if all(labels[p] != FROZEN for p, g in plan.assignment.items() if g == group)]
    if whole != trained:
        return "parts of " + (", ".join(trained) if len(trained) < _FEW else f"{trained[0]} to {trained[-1]}")
    if trained == groups[-len(trained) :] and len(trained) > 2:
        return f"{trained[0]} to {trained[-1]}"
    return ", ".join(trained)


def saved_work(cost: Mapping[str, float], plan: Plan, stage: Stage) -> str:
    """Returns how much of full fine-tuning's work a step of the stage is, or "" where everything trains."""
    share = cost["step_gflop"] / cost["full_gflop"]
    if len(stage.since) == len(plan.assignment) or share > 0.99:
        return ""
    percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
    return f"what is frozen is not differentiated: a step computes {percent} of what training everything would"


def group_table(plan: Plan, learning_rate: float, *, leaves: bool = False) -> str:
    """Returns the groups from input to head: parameters, how many of them train, the rate, and shapes."""
    rows = [("group", "parameters", "trains", "rate", "shapes")]
    for group in dict.fromkeys(plan.assignment.values()):
        paths = [path for path, owner in plan.assignment.items() if owner == group]
        trained = [path for path in paths if plan.labels[path] != FROZEN]
        rates = sorted({plan.peak(path, learning_rate) for path in trained})
        largest = max(paths, key=lambda path: math.prod(plan.shapes[path]))
        total, trains = (sum(math.prod(plan.shapes[path]) for path in chosen) for chosen in (paths, trained))
        shown = f"{largest} {list(plan.shapes[largest])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        rows.append((group, f"{total:,}", f"{trains:,}" if trains else "frozen", _range(rates), shown))
        if leaves:
            for path in paths:
                frozen = plan.labels[path] == FROZEN
                rate = "" if frozen else f"{plan.peak(path, learning_rate):.3g}"
                size = math.prod(plan.shapes[path])
                rows.append(
                    (f"  {path}", f"{size:,}", "frozen" if frozen else f"{size:,}", rate, str(list(plan.shapes[path])))
                )
    counts = plan.counts
    rows.append(("total", f"{counts['total']:,}", f"{counts['trainable']:,}", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def _schedule(experiment: Experiment) -> str:
    config, plan = experiment.config, experiment.plan
    optimizer, epochs = config.optimizer, plan.total_steps / experiment.steps_per_epoch
    length = f"{plan.total_steps:,} steps of {config.train.batch_size} images ({epochs:.3g} epochs)"
    warmup = f" after a warm-up of {optimizer.warmup_steps}" if optimizer.warmup_steps else ""
    rate = f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}{warmup}"
    stages = f" in {len(plan.stages)} stages" if len(plan.stages) > 1 else ""
    return f"{length}{stages}; {rate}"


def _row(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _range(rates: list[float]) -> str:
    if not rates:
        return ""
    return f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
