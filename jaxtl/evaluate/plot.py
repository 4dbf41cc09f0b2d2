"""Plots, without a display and without the state that pyplot keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot_depth(
    path: Path, groups: Sequence[str], scores: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str
) -> None:
    """Draws accuracy against depth.

    Args:
      path: of the image; its suffix says the format.
      groups: names from input to head.
      scores: classifier -> (accuracy, low, high) of each group.
      title: above the plot.
    """
    # Here, since it takes a second that only commands with a plot should pay.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in scores.items():
        accuracy, low, high = 100 * np.asarray(values).T
        (line,) = axes.plot(accuracy, marker="o", label=name)
        axes.fill_between(range(len(groups)), low, high, alpha=0.2, color=line.get_color())
    axes.set_xticks(range(len(groups)), groups, rotation=60, ha="right")
    axes.set(xlabel="output of group", ylabel="accuracy on test (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_rates(
    path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], suggestions: Mapping[str, float], *, title: str
) -> None:
    """Draws loss against learning rate.

    Args:
      path: of the image; its suffix says the format.
      curves: name -> (rates [n], losses [n]).
      suggestions: name -> rate, drawn as vertical lines.
      title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, (rates, losses) in curves.items():
        axes.plot(rates, losses, label=name)
    for number, (name, rate) in enumerate(suggestions.items()):
        axes.axvline(rate, linestyle="--", color=f"C{number + len(curves)}", label=f"{name}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss (smoothed)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_sweep(path: Path, points: Sequence[Mapping[str, float]], *, chosen: float, title: str) -> None:
    """Draws accuracy and loss against how far weights lie between two ends.

    Args:
      path: of the image; its suffix says the format.
      points: "alpha", "accuracy" and "loss" of each point.
      chosen: the alpha that was chosen, drawn as a vertical line.
      title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    alphas = [point["alpha"] for point in points]
    (accuracy,) = axes.plot(alphas, [100 * point["accuracy"] for point in points], marker="o", label="accuracy")
    other = axes.twinx()
    (loss,) = other.plot(alphas, [point["loss"] for point in points], marker="s", color="C1", label="loss")
    mark = axes.axvline(chosen, linestyle="--", color="C2", label=f"chosen: {chosen:g}")
    axes.set(xlabel="alpha", ylabel="accuracy (%)", title=title)
    other.set_ylabel("loss")
    axes.grid(alpha=0.3)
    figure.legend(handles=[accuracy, loss, mark], loc="outside lower center", ncols=3)  # Curves may go anywhere.
    figure.savefig(path, dpi=120)
