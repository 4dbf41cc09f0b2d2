"""Learning curves in a page: of one run, or of several over each other, from the lines of metrics.jsonl."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from jaxtl.report.figure import COLORS, new_figure, style, to_svg, with_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, Any]]

# Runs past the number of colours have them again, with other dashes.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
# Up to so many points each has a mark: of a curve of one evaluation there would be nothing to see.
_MARKED = 30
# Values that lie further apart are drawn on a logarithmic scale.
_WIDE = 50


@dataclass(frozen=True)
class Curve:
    """Values of a run, at its steps.

    Attributes:
      run: its name.
      split: "train", "val", or "val_ema": val with the averaged weights.
      steps: rising [n].
      values: finite [n].
    """

    run: str
    split: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Marks:
    """What is drawn beside curves.

    Attributes:
      best_steps: run -> the step of its best checkpoint.
      stages: steps at which a stage ends and the next begins.
      steps_per_epoch: run -> steps in an epoch; where it is known of all, curves are drawn over epochs.
    """

    best_steps: Mapping[str, int] = field(default_factory=dict)
    stages: Sequence[int] = ()
    steps_per_epoch: Mapping[str, float] = field(default_factory=dict)


_NO_MARKS = Marks()


@dataclass(frozen=True)
class _Chart:
    """What one chart shows: a metric of some splits, times a factor."""

    title: str
    key: str
    splits: tuple[str, ...]
    unit: str
    factor: float = 1.0


_VAL = ("val", "val_ema")
_ACCURACY = _Chart("accuracy on val", "accuracy", _VAL, "accuracy (%)", 100.0)
_RATE = _Chart("learning rate of the head", "learning_rate", ("train",), "learning rate")
_OF_ONE = (_Chart("loss", "loss", ("train", *_VAL), "loss"), _ACCURACY, _RATE)
# Of several runs the losses on train and val would be too many curves for one chart.
_OF_SEVERAL = (
    _ACCURACY,
    _Chart("loss on val", "loss", _VAL, "loss"),
    _Chart("loss in training", "loss", ("train",), "loss"),
    _RATE,
)


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, also of a run that is still writing it.

    What is no whole line, as the last one may be, and what names no step and split is left out.

    >>> parse_metrics('{"step": 1, "split": "val", "loss": 0.5}\\n{"step": 2, "spl')
    [{'step': 1, 'split': 'val', 'loss': 0.5}]
    """
    found = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int) and isinstance(values.get("split"), str):
            found.append(values)
    return found


def curve(run: str, lines: Lines, split: str, key: str) -> Curve:
    """Returns the values of a metric on a split that are finite; of a step that is there twice, the last."""
    values = {
        line["step"]: float(line[key])
        for line in lines
        if line["split"] == split and isinstance(line.get(key), (int, float)) and math.isfinite(line[key])
    }
    steps = sorted(values)
    return Curve(run, split, steps, [values[step] for step in steps])


def learning_curves(runs: Mapping[str, Lines], marks: Marks = _NO_MARKS) -> list[Markup]:
    """Returns charts as SVG: losses, the accuracy on val, and the learning rate; those with something to show.

    One run has the loss on train and val in one chart; of several each has its own.

    Args:
      runs: name -> the lines of its metrics.jsonl, from `parse_metrics`.
      marks: best steps, borders of stages, and epochs.
    """
    charts = []
    for chart in _OF_ONE if len(runs) == 1 else _OF_SEVERAL:
        curves = [curve(run, lines, split, chart.key) for run, lines in runs.items() for split in chart.splits]
        if any(each.steps for each in curves):
            charts.append(_draw(chart, curves, list(runs), marks))
    return charts


def _draw(chart: _Chart, curves: Sequence[Curve], runs: Sequence[str], marks: Marks) -> Markup:
    """Returns one chart, of curves of which some may be empty."""
    curves = [each for each in curves if each.steps]
    epochs = all(marks.steps_per_epoch.get(run) for run in runs)
    with style():
        # The legend lies below, where it hides nothing: a row, or a line for each run, whose names may be long.
        rows = 1 if len(runs) == 1 else len(curves)
        figure, axes = new_figure(6.0, 3.2 + 0.22 * rows)
        for each in curves:
            per_unit = marks.steps_per_epoch[each.run] if epochs else 1
            best = marks.best_steps.get(each.run) if each.split == "val" else None
            _plot(axes, each, chart, runs, per_unit, best)
        if len(runs) == 1:
            _draw_stages(axes, marks, marks.steps_per_epoch[runs[0]] if epochs else 1)
        values = [value for each in curves for value in each.values]
        if chart.key != "accuracy" and max(values) > _WIDE * min(values) > 0:
            with_log_scale(axes.yaxis)
        axes.set(xlabel="epochs" if epochs else "steps", ylabel=chart.unit, title=chart.title)
        figure.legend(loc="outside lower left", ncols=1 if rows > 1 else 5, columnspacing=1.2, handletextpad=0.5)
        return to_svg(figure, _in_words(chart, curves))


def _plot(axes: "Axes", each: Curve, chart: _Chart, runs: Sequence[str], per_unit: float, best: int | None) -> None:
    """Draws a curve: of one run the splits differ in colour, of several the runs."""
    single = len(runs) == 1
    number = ("val", "train", "val_ema").index(each.split) if single else runs.index(each.run)
    averaged = each.split == "val_ema"
    label = {"val_ema": "val, averaged weights"}.get(each.split, each.split) if single else each.run
    x, y = [step / per_unit for step in each.steps], [value * chart.factor for value in each.values]
    color = COLORS[number % len(COLORS)]
    few = each.split != "train" and len(x) <= _MARKED
    axes.plot(
        x,
        y,
        color=color,
        linestyle="-" if single else _DASHES[number // len(COLORS) % len(_DASHES)],
        linewidth=1 if averaged and not single else None,
        marker=("x" if averaged else "o") if few else None,
        markersize=3.5,
        # What begins with an underscore would be missing in the legend.
        label="\u200b" + label + (", averaged weights" if averaged and not single else ""),
    )
    if best in each.steps:
        place = each.steps.index(best)
        named = f"best, step {best:,}" if single else None
        axes.scatter(x[place], y[place], s=100, marker="o", facecolors="none", edgecolors=color, label=named, zorder=3)


def _draw_stages(axes: "Axes", marks: Marks, per_unit: float) -> None:
    """Draws a vertical line where a stage ends and the next begins."""
    import matplotlib as mpl

    for number, step in enumerate(marks.stages):
        axes.axvline(
            step / per_unit,
            color=mpl.rcParams["text.color"],
            linestyle=(0, (4, 3)),
            linewidth=1,
            alpha=0.6,
            label=None if number else "a stage ends",
        )


def _in_words(chart: _Chart, curves: Sequence[Curve]) -> str:
    """Returns what a chart shows for those who cannot see it: the first and the last value of each curve."""
    parts = [
        f"{each.run}, {each.split}: {each.values[0] * chart.factor:.4g} at step {each.steps[0]}, "
        f"{each.values[-1] * chart.factor:.4g} at step {each.steps[-1]}"
        for each in curves
    ]
    return f"{chart.title}. {'; '.join(parts)}"
