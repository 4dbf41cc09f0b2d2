"""What a person sees of a run: lines, and in a terminal a progress bar and tables of curves."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tqdm

from jaxtl.parallel import processes
from jaxtl.train.curves_table import CurvesTable

# What the bar shows, by the columns that it needs: where it is, how far, the time left of the whole run, and how good.
_BARS = {
    90: None,  # tqdm's own.
    56: "{percentage:3.0f}%|{bar}| {remaining} left{postfix}",
    0: "{percentage:3.0f}% {remaining} left{postfix}",
}


class Screen:
    """Lines for a person, the same everywhere, and where there is a terminal a progress bar and tables of curves."""

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        batch_size: int = 1,
        steps_per_epoch: float = 0.0,
        before: Iterable[Mapping[str, Any]] = (),
    ):
        """Starts at `start` of `total` steps.

        Args:
          total: the last step.
          start: steps that were taken before.
          batch_size: images of a step.
          steps_per_epoch: without it lines name no epoch.
          before: lines of metrics.jsonl of the steps before.
        """
        self._total, self._steps_per_epoch = total, steps_per_epoch
        self._taken, self._began = 0, time.perf_counter()
        self._bar, self._batch_size = None, batch_size
        if sys.stderr.isatty() and processes.is_main():
            # Images, not steps: the rate that the bar shows is then the number people compare. Without smoothing the
            # time left counts evaluations as they were so far.
            images = {"total": total * batch_size, "initial": start * batch_size}
            self._bar = tqdm.tqdm(**images, unit="img", dynamic_ncols=True, smoothing=0)
            self._table, self._told = CurvesTable(before), {"loss": "", "val": ""}
            self._fit_bar()

    def __enter__(self) -> "Screen":
        """Returns itself; leaving closes the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """Counts one step."""
        self._taken += 1
        if self._bar is not None:
            self._bar.update(self._batch_size)

    def line(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Shows the metrics that a person follows, with the epoch and the time left; the log holds all of them."""
        epoch = self._epoch(step)
        place = f"{epoch}  step {step}/{self._total}".lstrip()
        shown = [text(values[key]) for key, text in _SHOWN.items() if key in values]
        if split == "train" and self._taken and step < self._total:
            # Evaluations and checkpoints so far are in it, as they will be in what is left.
            left = (time.perf_counter() - self._began) / self._taken * (self._total - step)
            shown.append(f"{duration(left)} left")
        line = "  ".join([place, f"{split:5}", *shown])
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)
            self._table.add(split, values)
            if split == "train" and "loss" in values:
                self._told["loss"] = f"loss {values['loss']:.3g}"
            elif split == "val" and "accuracy" in values:
                self._told["val"] = f"val {100 * values['accuracy']:.1f} %"
            self._bar.set_description_str(epoch, refresh=False)
            self._bar.set_postfix_str(", ".join(filter(None, self._told.values())), refresh=False)
            self._fit_bar()

    def table(self) -> None:
        """Shows the curves of the run so far, where there is a terminal."""
        if self._bar is not None:
            with tqdm.tqdm.external_write_mode(file=sys.stderr):
                self._table.show(sys.stderr)

    def _epoch(self, step: int) -> str:
        if not self._steps_per_epoch:
            return ""
        return f"epoch {epoch_of(step, self._steps_per_epoch)}/{epoch_of(self._total, self._steps_per_epoch)}"

    def _fit_bar(self) -> None:
        """Leaves out of the bar what a narrow terminal has no room for."""
        if self._bar is not None:
            columns = shutil.get_terminal_size().columns if self._bar.ncols is None else self._bar.ncols
            self._bar.bar_format = next(text for least, text in _BARS.items() if columns >= least)
            self._bar.refresh()


def duration(seconds: float) -> str:
    """Returns a time for a person: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_SHOWN: Mapping[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4g}",
    "accuracy": lambda value: f"accuracy {100 * value:.1f} %",
    "f1": lambda value: f"F1 {100 * value:.1f} %",
    "map": lambda value: f"mAP {100 * value:.1f} %",
    "learning_rate": lambda value: f"learning rate {value:.2g}",
    "skipped": lambda value: f"{value:g} steps left out",
    "images_per_second": lambda value: f"{value:,.0f} images/s" if value >= 10 else f"{value:.2g} images/s",
}


def epoch_of(step: int, steps_per_epoch: float) -> int:
    """Returns the number of the epoch that a step lies in; one that ends within a step has all of it.

    >>> [epoch_of(step, 40.4) for step in (0, 1, 41, 42, 122)]
    [0, 1, 1, 2, 3]
    """
    epoch = math.ceil(step / steps_per_epoch)
    return epoch - 1 if epoch and math.ceil((epoch - 1) * steps_per_epoch) >= step else epoch
