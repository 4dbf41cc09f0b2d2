from types import SimpleNamespace

import pytest

from jaxtl.checkpoints.retention import Retention, ranked


def stays(scores, **options):
    def score(step):
        if scores[step] == "broken":
            raise OSError
        return scores[step]

    steps = sorted(scores)
    flags = Retention(score, **options).should_preserve([SimpleNamespace(step=step) for step in steps])
    return [step for step, flag in zip(steps, flags, strict=True) if flag]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"latest": 2, "best": 1}, [1, 4, 5]),
        ({"latest": 1, "best": 2}, [1, 3, 5]),
        ({"latest": 0, "best": 1}, [1]),
        ({"latest": 9, "best": 0}, [1, 2, 3, 4, 5]),
    ],
)
def test_the_latest_and_the_best_stay(options, expected):
    assert stays({1: 0.9, 2: 0.1, 3: 0.9, 4: None, 5: 0.5}, **options) == expected


def test_a_score_that_cannot_be_read_costs_nothing():
    assert stays({1: "broken", 2: 0.1, 3: 0.2}, latest=1, best=0) == [1, 3]


def test_among_equals_the_earliest_is_best():
    assert ranked({1: 0.5, 2: 0.9, 3: 0.9, 4: None}) == [2, 3, 1]


def test_of_several_numbers_each_decides_among_those_equal_in_the_ones_before():
    assert ranked({1: (0.9, -0.4), 2: (0.9, -0.2), 3: (0.8, -0.1), 4: (0.9, -0.2)}) == [2, 4, 1, 3]
    assert ranked({1: 0.9, 2: [0.9, -0.2], 3: 0.8}) == [1, 2, 3]  # A run of before has one number.
