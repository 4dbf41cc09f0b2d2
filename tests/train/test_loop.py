"""The loop around a step of plain Python: what it evaluates, writes, saves and raises, and that it goes on exactly."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.checkpoints.retention import ranked
from jaxtl.errors import Stopped
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train.loop import Diverged, Evaluation, LoopOptions, Outputs, eval_steps, fit
from jaxtl.train.progress import Progress
from jaxtl.train.saving import restore
from jaxtl.train.state import TrainState


class Saved:
    """Checkpoints in a dictionary: step -> (variables, rest, metadata, score)."""

    def __init__(self):
        self.saved = {}

    def steps(self):
        return list(self.saved)

    def save(self, step, variables, rest, metadata, score, frozen):
        self.saved[step] = (variables, rest, metadata, score)


class Lines:
    """A log and a screen that keep what they are given."""

    def __init__(self):
        self.written, self.shown, self.advanced = [], [], 0

    def write(self, step, split, values, speeds=None):
        self.written.append((step, split, dict(values)))

    def sync(self):
        pass

    def line(self, step, split, values):
        self.shown.append((step, split))

    def advance(self):
        self.advanced += 1

    def table(self):
        pass

    def pictures(self, step, pictures):
        pass


def state_at(weight=0.0, **fields):
    state = TrainState.create({"params": {"w": jnp.asarray(weight)}}, optax.trace(0.9), jax.random.key(0))
    return dataclasses.replace(state, **fields)


def add(state, batch):
    """Adds the batch's number to the weight, and calls it the loss."""
    (x,) = batch["x"]
    after = dataclasses.replace(state, step=state.step + 1, params={"w": state.params["w"] + x})
    return after, {"loss": x, "grad_norm": jnp.ones(())}


def numbers(start=0):
    """The batches after `start` steps: 1, 2, 3 and so on."""
    return ({"x": np.asarray([n], np.float32)} for n in itertools.count(start + 1))


def weight_of(variables):
    return {"accuracy": float(variables["params"]["w"]), "loss": 1.0}


def run(state=None, *, progress=None, step=add, evaluate=weight_of, checkpoints=None, stop=lambda: False, **options):
    """Runs the loop; returns the last state, the progress, the checkpoints and the lines, also where it raises."""
    state = state_at() if state is None else state
    options = {"total_steps": 5, "eval_at": [5], "batch_size": 1, "learning_rate": lambda step: 0.5, **options}
    lines, checkpoints = Lines(), Saved() if checkpoints is None else checkpoints
    progress = Progress() if progress is None else progress
    ending = None
    try:
        state, _ = fit(
            state,
            progress=progress,
            step=step,
            batches=numbers(int(state.step)),
            evaluate=lambda variables: Evaluation(evaluate(variables)),
            partitioner=make_partitioner(devices=jax.devices()[:1]),
            options=LoopOptions(**options),
            outputs=Outputs(checkpoints, lines, lines),
            stop=stop,
        )
    except (Stopped, Diverged) as error:
        ending = error
    return state, progress, checkpoints, lines, ending


@pytest.mark.parametrize(
    ("total", "options", "expected"),
    [
        (10, {"every": 4}, [4, 8, 10]),
        (8, {"every": 4}, [4, 8]),
        (3, {"every": 4}, [3]),
        (10, {"steps_per_epoch": 2.5}, [3, 5, 8, 10]),
        (4, {"steps_per_epoch": 10.0}, [4]),
    ],
)
def test_evaluation_steps(total, options, expected):
    assert eval_steps(total, **options) == expected


def test_it_evaluates_writes_and_saves_where_it_is_told():
    state, progress, checkpoints, lines, _ = run(eval_at=[2, 5], log_every=3, learning_rate=lambda step: 0.5**step)
    assert float(state.params["w"]) == 1 + 2 + 3 + 4 + 5
    # Means since the line before; rates are those of the step that was taken last.
    assert lines.written == [
        (2, "train", {"loss": 1.5, "grad_norm": 1.0, "learning_rate": 0.5}),
        (2, "val", {"accuracy": 3.0, "loss": 1.0}),
        (3, "train", {"loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.25}),
        (5, "train", {"loss": 4.5, "grad_norm": 1.0, "learning_rate": 0.0625}),
        (5, "val", {"accuracy": 15.0, "loss": 1.0}),
    ]
    assert lines.shown == [(step, split) for step, split, _ in lines.written]
    assert lines.advanced == 5
    assert [(step, score) for step, (_, _, _, score) in checkpoints.saved.items()] == [
        (2, (3.0, -1.0)),
        (5, (15.0, -1.0)),
    ]
    assert [float(variables["params"]["w"]) for variables, _, _, _ in checkpoints.saved.values()] == [3.0, 15.0]
    assert (progress.finished, progress.best_step, progress.images) == (True, 5, 5)


def test_a_stage_ends_at_its_step_and_the_run_is_not_finished():
    state, progress, checkpoints, _, _ = run(stop_at=3, eval_at=[3, 5])
    assert (int(state.step), progress.finished, checkpoints.steps()) == (3, False, [3])
    state, progress, _, _, _ = run(state, progress=progress, eval_at=[3, 5])
    assert (int(state.step), float(state.params["w"]), progress.finished) == (5, 15.0, True)


@pytest.mark.parametrize(
    ("patience", "last", "best"), [(0, 5, 5), (1, 3, 2), (2, 4, 2), (3, 5, 5)], ids=lambda value: str(value)
)
def test_it_stops_after_so_many_evaluations_without_a_better_one(patience, last, best):
    accuracies = iter([0.5, 0.6, 0.6, 0.55, 0.9])  # As good is not better.
    state, progress, _, _, _ = run(
        evaluate=lambda _: {"accuracy": next(accuracies), "loss": 1.0}, eval_at=[1, 2, 3, 4, 5], patience=patience
    )
    assert (int(state.step), progress.best_step, progress.finished) == (last, best, True)


def test_of_equal_accuracies_the_lowest_loss_is_best():
    found = iter([(0.9, 1.5), (0.95, 0.4), (0.95, 0.25), (0.9, 0.1), (0.95, 0.3)])

    def evaluate(_):
        return dict(zip(("accuracy", "loss"), next(found), strict=True))

    _, progress, checkpoints, _, _ = run(evaluate=evaluate, eval_at=[1, 2, 3, 4, 5])
    assert (progress.best_step, progress.val) == (3, {"accuracy": 0.95, "loss": 0.25})
    assert ranked({step: score for step, (_, _, _, score) in checkpoints.saved.items()}) == [3, 5, 2, 4, 1]


def test_an_equal_accuracy_at_a_lower_loss_is_better_but_patience_ends():
    found = iter([(0.9, 0.5), (0.9, 0.4), (0.9, 0.3), (0.9, 0.2), (0.9, 0.1)])

    def evaluate(_):
        return dict(zip(("accuracy", "loss"), next(found), strict=True))

    state, progress, _, _, _ = run(evaluate=evaluate, eval_at=[1, 2, 3, 4, 5], patience=2)
    assert (int(state.step), progress.best_step, progress.finished) == (3, 3, True)


def test_the_last_is_best_where_nothing_is_to_choose():
    found = iter([(0.9, 0.5), (0.95, 0.1), (0.5, 0.7)])

    def evaluate(_):
        return dict(zip(("accuracy", "loss"), next(found), strict=True))

    _, progress, checkpoints, _, _ = run(evaluate=evaluate, eval_at=[1, 3, 5], monitor="last")
    assert (progress.best_step, progress.val["accuracy"]) == (5, 0.5)
    assert ranked({step: score for step, (_, _, _, score) in checkpoints.saved.items()}) == [5, 3, 1]


def test_of_losses_the_lowest_is_best():
    losses = iter([0.5, 0.25, 0.75])
    _, progress, checkpoints, _, _ = run(
        evaluate=lambda _: {"loss": next(losses)}, eval_at=[1, 3, 5], monitor="loss", patience=0
    )
    assert (progress.best_step, progress.val) == (3, {"loss": 0.25})
    assert [score for _, _, _, score in checkpoints.saved.values()] == [(-0.5,), (-0.25,), (-0.75,)]


def test_a_checkpoint_holds_the_average_where_that_was_better():
    def best_at(value):
        return lambda variables: {"accuracy": -abs(float(variables["params"]["w"]) - value), "loss": 1.0}

    average = {"params/w": jnp.asarray(4.0)}
    _, progress, checkpoints, lines, _ = run(state_at(ema=average), evaluate=best_at(4.0))
    variables, rest, _, score = checkpoints.saved[5]
    assert (progress.averaged, score) == (True, (0.0, -1.0))
    assert (float(variables["params"]["w"]), float(rest["ema"]["params/w"])) == (4.0, 15.0)
    assert [split for _, split, _ in lines.written] == ["train", "val", "val_ema"]
    assert progress.both["won"] == "ema"
    _, progress, checkpoints, _, _ = run(state_at(ema=average), evaluate=best_at(15.0))
    variables, rest, _, _ = checkpoints.saved[5]
    assert progress.averaged is False
    assert (float(variables["params"]["w"]), float(rest["ema"]["params/w"])) == (15.0, 4.0)


@pytest.mark.parametrize(
    ("key", "message"),
    [("loss", "the loss is nan at step 3"), ("grad_norm", "the norm of the gradient is nan at step 3")],
)
def test_what_is_not_finite_ends_the_run_and_names_the_last_good_checkpoint(key, message):
    def breaks_at_three(state, batch):
        after, scalars = add(state, batch)
        return after, scalars | ({key: math.nan} if batch["x"][0] == 3 else {})

    for eval_at, last in (([2, 5], "the last good checkpoint is step 2"), ([5], "there was no checkpoint yet")):
        *_, ending = run(step=breaks_at_three, eval_at=eval_at)
        assert isinstance(ending, Diverged)
        remedy = "Lower the learning_rate, or set clip_norm or longer warmup_steps."
        assert str(ending) == f"{message}; {last}. {remedy}"


def test_a_loss_on_val_that_is_not_finite_is_not_saved():
    _, _, checkpoints, lines, ending = run(evaluate=lambda _: {"accuracy": 0.1, "loss": math.inf}, eval_at=[2, 5])
    assert "the loss on val is inf at step 2" in str(ending)
    assert (checkpoints.saved, [split for _, split, _ in lines.written]) == ({}, ["train"])


def test_fifty_skipped_steps_in_a_row_end_the_run():
    def skips(until):
        def step(state, batch):
            after, scalars = add(state, batch)
            return after, {**scalars, "loss": math.nan, "skipped": 1.0} if batch["x"][0] <= until else scalars

        return step

    *_, ending = run(step=skips(50), total_steps=60, eval_at=[60])
    assert "50 steps one after the other, up to step 50, had a gradient that is not finite" in str(ending)
    _, progress, _, lines, ending = run(step=skips(49), total_steps=51, eval_at=[51], log_every=49)
    assert ending is None
    assert (progress.skipped, progress.skipped_in_a_row) == (49, 0)
    # Where all steps of a line were skipped there is no loss.
    assert lines.written[0] == (49, "train", {"learning_rate": 0.5, "skipped": 49})
    assert lines.written[1] == (51, "train", {"loss": 50.5, "grad_norm": 1.0, "learning_rate": 0.5})


def stop_after(steps):
    asked = itertools.count(1)
    return lambda: next(asked) == steps


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, steps):
    whole, whole_progress, _, whole_lines, _ = run(eval_at=[2, 5], log_every=2)
    with Checkpoints(tmp_path) as checkpoints:
        *_, lines, ending = run(checkpoints=checkpoints, stop=stop_after(steps), eval_at=[2, 5], log_every=2)
    assert str(ending) == f"stopped after step {steps} of 5"
    with Checkpoints(tmp_path) as checkpoints:
        state, progress = restore(checkpoints, lambda step: state_at())
        assert (int(state.step), progress.due) == (steps, steps in (2, 5))
        state, progress, _, more, ending = run(
            state, progress=progress, checkpoints=checkpoints, eval_at=[2, 5], log_every=2
        )
    assert ending is None
    assert lines.written + more.written == whole_lines.written
    assert float(state.params["w"]) == float(whole.params["w"]) == 15.0
    np.testing.assert_array_equal(jax.random.key_data(state.rng), jax.random.key_data(whole.rng))
    clock = ("seconds", "began", "counted")
    assert {key: value for key, value in vars(progress).items() if key not in clock} == {
        key: value for key, value in vars(whole_progress).items() if key not in clock
    }


def test_a_run_stopped_in_its_evaluation_evaluates_again(tmp_path):
    def leaves(variables):
        raise Stopped("in the middle")

    with Checkpoints(tmp_path) as checkpoints:
        *_, lines, ending = run(checkpoints=checkpoints, evaluate=leaves, eval_at=[2, 5])
    assert str(ending) == "stopped after step 2 of 5"
    with Checkpoints(tmp_path) as checkpoints:
        state, progress = restore(checkpoints, lambda step: state_at())
        assert (int(state.step), progress.due) == (2, True)
        *_, more, _ = run(state, progress=progress, checkpoints=checkpoints, eval_at=[2, 5])
    assert [line[:2] for line in lines.written + more.written] == [(2, "train"), (2, "val"), (5, "train"), (5, "val")]


@pytest.mark.parametrize("best", [4.0, 15.0])
def test_weights_and_averages_come_back_in_their_own_places_whichever_was_better(tmp_path, best):
    def near(variables):
        return {"accuracy": -abs(float(variables["params"]["w"]) - best), "loss": 1.0}

    begin = state_at(ema={"params/w": jnp.asarray(4.0)}, scaling={"scale": jnp.asarray(8.0)})
    with Checkpoints(tmp_path) as checkpoints:
        run(begin, evaluate=near, checkpoints=checkpoints)
    with Checkpoints(tmp_path) as checkpoints:
        state, progress = restore(checkpoints, lambda step: begin)
    assert (progress.averaged, progress.finished) == (best == 4.0, True)
    assert (float(state.params["w"]), float(state.ema["params/w"]), float(state.scaling["scale"])) == (15.0, 4.0, 8.0)


def test_nothing_is_restored_where_there_is_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert restore(checkpoints, lambda step: state_at()) is None
