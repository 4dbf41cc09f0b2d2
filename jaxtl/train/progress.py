"""What the loop remembers from step to step, and a checkpoint keeps."""

import dataclasses
import time
from typing import Any

# What a run spends its time on; together they are all of it.
PARTS = ("start", "features", "compile", "train", "evaluate", "checkpoint")


@dataclasses.dataclass
class Progress:
    """The loop's own memory; it travels in every checkpoint, so that a continued run decides as an undisturbed one.

    Attributes:
      window: sums of the training metrics since the last line, and under "steps" how many steps they cover.
      train: the last training line with a loss.
      val: the metrics of the best evaluation, of whichever weights were better.
      both: the metrics of the best evaluation for the "raw" and the "ema" weights, and which "won".
      averaged: whether the last evaluation was won by the averages; its checkpoint then holds them as its variables.
      best_step: the step of the best evaluation; 0 before the first.
      waited: evaluations since the best one.
      finished: whether the last step was taken or patience ran out.
      due: whether the evaluation after the last step is still to be made.
      seconds: spent before anything is computed ("start": data and weights read, the last checkpoint restored), on what
        is computed once of each image ("features"), in compiling ("compile"), in steps ("train"), in evaluations
        ("evaluate"), on checkpoints as far as the run waits for them ("checkpoint") and in all ("total", of which the
        others are parts), by the processes of this run one after the other; of "train" at most so many while the
        devices stood still for want of a batch ("data").
      images: number of images the steps saw, for the speed.
      costs: start of each stage -> the cost of its step.
      skipped: number of steps that were left out because their gradient was not finite.
      skipped_in_a_row: how many of them came last.
      began: when this process did, by its own clock; not in the checkpoint.
      counted: until when its seconds are counted to a part, likewise.
    """

    window: dict[str, float] = dataclasses.field(default_factory=dict)
    train: dict[str, float] = dataclasses.field(default_factory=dict)
    val: dict[str, float] = dataclasses.field(default_factory=dict)
    both: dict[str, Any] = dataclasses.field(default_factory=dict)
    averaged: bool = False
    best_step: int = 0
    waited: int = 0
    finished: bool = False
    due: bool = False
    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"total": 0.0, **dict.fromkeys(PARTS, 0.0), "data": 0.0}
    )
    images: int = 0
    costs: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
    began: float = dataclasses.field(default_factory=time.perf_counter)
    counted: float = dataclasses.field(default_factory=time.perf_counter)

    def begin(self, began: float) -> None:
        """Sets when this process began, by `time.perf_counter`."""
        self.began = self.counted = began

    def spend(self, part: str) -> None:
        """Counts the time since the call before, or since the beginning, as spent in a part of the run."""
        now = time.perf_counter()
        # Runs from before a part was counted have none of it.
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.counted
        self.counted = now

    def total(self) -> float:
        """Returns the seconds of the processes before, up to their last checkpoints, and of this one so far."""
        return self.seconds["total"] + time.perf_counter() - self.began

    def to_json(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        kept = dataclasses.asdict(self)
        del kept["began"], kept["counted"]
        kept["seconds"]["total"] = self.total()
        return kept
