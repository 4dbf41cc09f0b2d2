"""What all writers have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np


class Writer(Protocol):
    """Takes what a run has to show, and keeps it for a program that shows it."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each curve; names are such as "val/loss"."""

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes a histogram of values [n]: finite, and one at least."""

    def close(self, *, hurry: bool = False) -> None:
        """Writes what is left; `hurry`: the run was cut short and may go on, and the process is to end soon."""


@dataclass(frozen=True)
class Run:
    """What writers are told of a run.

    Attributes:
      workdir: of the run.
      name: what people call it.
      project: the runs among which it is shown.
      from_step: the first step that is yet to be taken; steps from there on that were written are taken again.
      config: its settings by their whole names.
      ids: what each writer called the run when it began, by the writer's name.
    """

    workdir: Path
    name: str
    project: str
    from_step: int = 1
    config: Mapping[str, object] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
