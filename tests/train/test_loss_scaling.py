import jax.numpy as jnp

from jaxtl.train import loss_scaling


def run(state, outcomes, window):
    seen = []
    for finite in outcomes:
        state = loss_scaling.update(state, jnp.array(finite), window=window)
        seen.append((float(state["scale"]), int(state["streak"])))
    return seen


def test_it_halves_on_overflow_and_doubles_after_a_window_without():
    outcomes = [True, True, True, False, True, True, True]
    assert run(loss_scaling.start(8.0), outcomes, window=3) == [
        (8.0, 1),
        (8.0, 2),
        (16.0, 0),
        (8.0, 0),
        (8.0, 1),
        (8.0, 2),
        (16.0, 0),
    ]


def test_it_never_falls_below_one():
    assert run(loss_scaling.start(2.0), [False] * 3, window=3) == [(1.0, 0)] * 3
