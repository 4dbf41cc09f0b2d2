"""Which checkpoints of a run stay: the latest, and the best by their scores."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

# What is compared, higher is better; of several numbers each decides among those that are equal in the ones before.
Score: TypeAlias = float | Sequence[float]


class Retention:
    """Tells which steps to keep; Orbax asks it at each save."""

    def __init__(self, score: Callable[[int], Score | None], *, latest: int, best: int):
        """Takes step -> score, None where it has none; a step whose score cannot be read raises, and stays."""
        self._score, self._latest, self._best = score, latest, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
        """Returns for each checkpoint whether it stays."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        retained = self.retained(steps)
        return [step in retained for step in steps]

    def retained(self, steps: Collection[int]) -> set[int]:
        """Returns which of the steps stay."""
        retained = set(sorted(steps)[max(0, len(steps) - self._latest) :])
        scores: dict[int, Score | None] = {}
        for step in steps:
            try:
                scores[step] = self._score(step)
            except Exception:  # A drive that stumbles must not cost the best one.
                retained.add(step)
        return retained.union(ranked(scores)[: self._best])

    def best(self, steps: Collection[int]) -> int | None:
        """Returns the best of the steps, or None where none has a score that can be read."""
        found: dict[int, Score | None] = {}
        for step in steps:
            with contextlib.suppress(Exception):
                found[step] = self._score(step)
        return next(iter(ranked(found)), None)


def ranked(scores: Mapping[int, Score | None]) -> list[int]:
    """Returns the steps that have a score, the best first; among equals the earliest.

    >>> ranked({1: 0.5, 2: 0.9, 3: 0.9, 4: None})
    [2, 3, 1]
    >>> ranked({1: (0.5, -0.1), 2: (0.9, -0.4), 3: (0.9, -0.2)})
    [3, 2, 1]
    """
    known = {step: numbers(score) for step, score in scores.items() if score is not None}
    # Runs of before have one number alone: among equals of it the earliest was best, and stays so.
    compared = min(map(len, known.values()), default=0)
    known = {step: found[:compared] for step, found in known.items()}
    return sorted(known, key=lambda step: (known[step], -step), reverse=True)


def numbers(score: Score) -> tuple[float, ...]:
    """Returns the numbers of a score, to be compared one after the other."""
    return tuple(score) if isinstance(score, Sequence) else (score,)
