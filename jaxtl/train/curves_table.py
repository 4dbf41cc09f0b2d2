"""A table of a run's curves in a terminal: one line each, with a sparkline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%@"
# What there is room for beside a sparkline: names, the last and the best value.
_BESIDE, _WIDEST, _NARROWEST = 34, 48, 6


def sparkline(values: Sequence[float], width: int, blocks: str = _BLOCKS) -> str:
    """Returns a curve as one character for each of at most `width` values, or means of neighbours.

    Neither rich nor tqdm has sparklines, and a package for these lines would be one more to trust.

    >>> sparkline([0, 1, 2, 3, 7], 5)
    '▁▂▃▄█'
    """
    finite = np.asarray([value for value in values if np.isfinite(value)], float)
    if not len(finite):
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(width, len(finite)))])
    spread = means.max() - means.min()
    levels = (means - means.min()) / (spread or 1.0) * (len(blocks) - 1)
    return "".join(blocks[round(level)] for level in levels)


class CurvesTable:
    """The curves that a person follows, as far as the run has come."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        """Begins with lines of metrics.jsonl."""
        self._curves: dict[str, list[float]] = {name: [] for name in _ROWS}
        for line in lines:
            self.add(line["split"], line)

    def add(self, split: str, values: Mapping[str, Any]) -> None:
        """Adds the values of a line to their curves."""
        for name, (of_split, key, *_) in _ROWS.items():
            if split == of_split and values.get(key) is not None:
                self._curves[name].append(float(values[key]))

    def show(self, file: TextIO) -> None:
        """Writes the table as wide as the terminal allows, in ASCII where its encoding has no blocks."""
        # Here, for what only a terminal should pay.
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file)
        blocks = _BLOCKS if console.encoding.startswith("utf") else _ASCII
        width = int(np.clip(console.width - _BESIDE, _NARROWEST, _WIDEST))
        table = Table(box=None, pad_edge=False, header_style="dim", highlight=False)
        table.add_column("")
        table.add_column("so far", no_wrap=True)
        table.add_column("last", justify="right", no_wrap=True)
        table.add_column("best", justify="right", no_wrap=True)
        for name, curve in self._curves.items():
            *_, text, best = _ROWS[name]
            if curve:
                table.add_row(name, sparkline(curve, width, blocks), text(curve[-1]), text(best(curve)) if best else "")
        console.print(table)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _short(value: float) -> str:
    return f"{value:.3g}"


# Name -> split, key, how a value is written, and which of them is best.
_Row = tuple[str, str, Callable[[float], str], Callable[[Iterable[float]], float] | None]
_ROWS: Mapping[str, _Row] = {
    "train loss": ("train", "loss", _short, min),
    "val loss": ("val", "loss", _short, min),
    "val accuracy": ("val", "accuracy", _percent, max),
    "learning rate": ("train", "learning_rate", _short, None),
}
