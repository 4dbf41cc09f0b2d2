"""Checkpoints that wait in memory, where they follow each other faster than they can be written."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from jaxtl.checkpoints.retention import Retention

T = TypeVar("T")


@dataclass(frozen=True)
class _Given(Generic[T]):
    checkpoint: T
    best: int | None  # The best step, as of this one.


class Waiting(Generic[T]):
    """Tells which checkpoints need not be written, since they would be gone again by the time the others are.

    Written in their order, what is left keeps two promises: with each step the best up to it is on the disk, and in the
    end there is what there would be if all had been written.
    """

    def __init__(self, retention: Retention):
        """Takes what tells which steps stay."""
        self._retention = retention
        self._given: dict[int, _Given[T]] = {}
        self._kept: set[int] | None = None

    def note(self, step: int, before: set[int]) -> None:
        """Takes note of a step that is saved; `before` are those on the disk, should it be the first."""
        self._kept = self._retention.retained((before if self._kept is None else self._kept) | {step})

    def add(self, step: int, checkpoint: T) -> None:
        """Takes the checkpoint of the step that was noted last, and lets go of those that it makes needless."""
        kept = self._kept or set()
        self._given[step] = _Given(checkpoint, self._retention.best(kept))
        needed = kept | {given.best for at, given in self._given.items() if at in kept}
        self._given = {at: given for at, given in self._given.items() if at in needed}

    def take(self) -> list[T]:
        """Returns those that wait, in the order of their steps; none does from then on."""
        given, self._given = self._given, {}
        return [given[step].checkpoint for step in sorted(given)]
