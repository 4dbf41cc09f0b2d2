import numpy as np
import pytest

from jaxtl.train.schedules import make_schedule


def values(name, steps, **options):
    schedule = make_schedule(name, peak=2.0, total_steps=8, **options)
    return [round(float(schedule(step)), 6) for step in steps]


@pytest.mark.parametrize(
    ("name", "options", "steps", "expected"),
    [
        ("constant", {}, [0, 4, 8], [2.0, 2.0, 2.0]),
        ("constant", {"warmup_steps": 4}, [0, 1, 3, 4, 8], [0.5, 1.0, 2.0, 2.0, 2.0]),
        ("linear", {}, [0, 2, 4, 8, 9], [2.0, 1.5, 1.0, 0.0, 0.0]),
        ("linear", {"end_factor": 0.5}, [0, 4, 8], [2.0, 1.5, 1.0]),
        ("cosine", {}, [0, 4, 8], [2.0, 1.0, 0.0]),
        ("cosine", {"warmup_steps": 4}, [0, 3, 4, 6, 8], [0.5, 2.0, 2.0, 1.0, 0.0]),
        ("step", {}, [0, 3, 4, 5, 6, 8], [2.0, 2.0, 0.2, 0.2, 0.02, 0.02]),
        ("step", {"boundaries": (0.25,), "factor": 0.5}, [1, 2], [2.0, 1.0]),
    ],
)
def test_values(name, options, steps, expected):
    np.testing.assert_allclose(values(name, steps, **options), expected, atol=1e-6)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="cosine, linear, constant, step"):
        make_schedule("exponential", peak=1.0, total_steps=1)
