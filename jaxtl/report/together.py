"""What an ensemble, or a mean of weights, was put together from, as a table for its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtl.report.page import number, percent


@dataclass(frozen=True)
class Together:
    """A table of members.

    Attributes:
      caption: what it shows.
      header: titles of its columns.
      rows: of texts; the first of each names it.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def members_of(results: Mapping[str, Any]) -> Together | None:
    """Returns the members that results.json tells of; None of a run that has none."""
    if "ensemble" in results:
        return _of_ensemble(results["ensemble"]["table"], results["ensemble"]["by"])
    return _of_average(results["average"]) if "average" in results else None


def _of_ensemble(table: Mapping[str, Any], by: str) -> Together:
    rows = []
    for name, row in table["rows"].items():
        metrics, differences = row["metrics"], row.get("differences")
        told = ["–", "–"]
        if differences is not None:
            told = [_with_interval(differences["accuracy"], 100, 1), _with_interval(differences["log_loss"], 1, 4)]
        rows.append([name, percent(metrics["accuracy"]), number(metrics["log_loss"]), *told])
    against = table["baseline"]
    caption = (
        f"Members, and the ways to put them together, on {table['split']}; this ensemble goes by {by}. Differences are "
        f"from {against}, the member with the least loss on val, with 95 % intervals by a paired bootstrap."
    )
    return Together(caption, ["", "accuracy", "log loss", "accuracy, points", "log loss, difference"], rows)


def _of_average(average: Mapping[str, Any]) -> Together:
    rows = [
        [name, f"{average['weights'][name]:.3g}", percent(metrics.get("accuracy")), number(metrics.get("loss"))]
        for name, metrics in average["alone"].items()
    ]
    caption = f"Members of this mean by {average['by']}, each alone, on val."
    return Together(caption, ["", "weight", "accuracy", "loss"], rows)


def _with_interval(difference: Mapping[str, Any], scale: float, digits: int) -> str:
    value, low, high = (f"{scale * each + 0:+.{digits}f}" for each in (difference["value"], *difference["interval"]))
    return f"{value} ({low} to {high})"
