"""Which checkpoints are written where most are gone again before a disk can take them."""

import random

import pytest

from jaxtl.checkpoints.retention import Retention
from jaxtl.checkpoints.waiting import Waiting


def written(scores, takes, *, latest=2, best=1):
    """Saves steps 1, 2, ...; returns what is written after each, and what the disk holds after each write."""
    known = dict(enumerate(scores, start=1))
    retention = Retention(known.get, latest=latest, best=best)
    waiting, disk, each, seen = Waiting(retention), set(), [], []
    for step in known:
        waiting.note(step, set(disk))
        waiting.add(step, step)
        each.append(waiting.take() if step in takes else [])
        for at in each[-1]:
            disk = retention.retained(disk | {at})
            seen.append((at, sorted(disk)))
    return each, seen


def test_the_latest_and_the_best_are_written_in_their_order():
    each, seen = written([0.5, 0.9, 0.8, 0.1, 0.2, 0.3], takes={6})
    assert each == [[], [], [], [], [], [2, 5, 6]]
    assert seen == [(2, [2]), (5, [2, 5]), (6, [2, 5, 6])]


def test_one_that_was_the_best_is_written_before_one_that_follows_it():
    # At step 5 the best is 5; 4 is among the latest two, and a run that goes on from it finds the best up to it: 2.
    each, seen = written([0.1, 0.6, 0.5, 0.4, 0.9], takes={1, 5})
    assert each == [[1], [], [], [], [2, 4, 5]]
    assert seen[-2:] == [(4, [2, 4]), (5, [4, 5])]


def test_a_step_that_is_saved_again_counts_once():
    waiting = Waiting(Retention({4: 0.5}.get, latest=2, best=1))
    for text in ("stopped", "evaluated"):
        waiting.note(4, set())
        waiting.add(4, text)
    assert (waiting.take(), waiting.take()) == (["evaluated"], [])


@pytest.mark.parametrize("seed", range(20))
def test_whenever_they_are_written_the_disk_ends_the_same_and_has_the_best_up_to_each_step(seed):
    rng = random.Random(seed)
    scores = [rng.choice([None, *range(6)]) for _ in range(30)]
    keep = {"latest": rng.choice([1, 2, 3]), "best": rng.choice([1, 2])}
    _, all_written = written(scores, takes=range(1, 31), **keep)
    takes = {step for step in range(1, 30) if rng.random() < 0.3} | {30}
    _, seen = written(scores, takes=takes, **keep)
    assert seen[-1] == all_written[-1]
    best = dict(all_written)
    retention = Retention(dict(enumerate(scores, start=1)).get, latest=1, best=1)
    for step, disk in seen:
        assert retention.best(disk) == retention.best(range(1, step + 1)) == retention.best(best[step])
