from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import TABLE, Net, batch

from jaxtl.finetune import param_groups as groups_lib
from jaxtl.finetune import stages
from jaxtl.train import ema
from jaxtl.train.carry_over import carry_over
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step
from jaxtl.trees import flatten

LABELS = [
    {"base": "frozen", "body": "frozen", "head": "head"},
    {"base": "frozen", "body": "body", "head": "head"},
    {"base": "base", "body": "frozen", "head": "head"},
]
STAGES = stages.make_stages([4, 3, 5], LABELS, [1.0, 0.5, 0.1])


def test_stages_follow_each_other_and_know_since_when_what_trains():
    assert [(stage.start, stage.stop) for stage in STAGES] == [(0, 4), (4, 7), (7, 12)]
    assert [dict(stage.since) for stage in STAGES] == [{"head": 0}, {"body": 4, "head": 0}, {"base": 7, "head": 0}]
    assert STAGES[1].labels == {"base": "frozen", "body": "body since 4", "head": "head"}
    assert STAGES[2].labels == {"base": "base since 7", "body": "frozen", "head": "head"}


@pytest.mark.parametrize(("step", "number"), [(0, 0), (1, 0), (4, 0), (5, 1), (7, 1), (8, 2), (12, 2)])
def test_a_checkpoint_belongs_to_the_stage_that_took_its_step(step, number):
    assert stages.stage_of(STAGES, step) is STAGES[number]


def test_the_schedule_starts_anew_in_each_stage_or_spans_the_run():
    shapes = [lambda step, n=stage.stop - stage.start: 1 - step / n for stage in STAGES]
    schedule = stages.staged_schedule(STAGES, shapes, restart=True)
    seen = [float(schedule(step)) for step in (0, 3, 4, 6, 7, 11)]
    np.testing.assert_allclose(seen, [1.0, 0.25, 0.5, 0.5 / 3, 0.1, 0.02], rtol=1e-5)
    whole = stages.staged_schedule(STAGES, [lambda step: 1 - step / 12] * 3, restart=False)
    seen = [float(jax.jit(whole)(step)) for step in (0, 3, 4, 6, 7, 11)]
    np.testing.assert_allclose(seen, [1.0, 0.75, 4 / 12, 0.25, 0.1 * 5 / 12, 0.1 / 12], rtol=1e-5)


def test_what_goes_on_keeps_its_moments_and_what_is_new_starts_fresh():
    model = Net()
    variables = jax.jit(model.init)(jax.random.key(1), batch()["image"])
    assignment = groups_lib.assign(variables["params"], TABLE)
    # First the biases alone, so that the head's kernel joins a group of which a part has trained already.
    plan = stages.make_stages([2, 2], [groups_lib.select(assignment, rule) for rule in ("head/bias", "1")], [1.0, 1.0])
    optimizers = [make_optimizer(stage.labels, OptimizerOptions(learning_rate=0.01)) for stage in plan]
    average = ema.trained_leaves(variables, plan[0].labels)
    state = TrainState.create(variables, optimizers[0], jax.random.key(2), ema=average)

    def run(state, stage, optimizer):
        step = partial(
            train_step,
            model=model,
            optimizer=optimizer,
            groups=stage.labels,
            options=StepOptions(ema_decay=0.9, ema_since=stage.since),
        )
        for seed in range(2):
            state, _ = jax.jit(step)(state, batch(8, seed))
        return state

    before = run(state, plan[0], optimizers[0])
    after = carry_over(before, plan[1], optimizers[1])
    old, new = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (before.opt_state, after.opt_state)
    )
    kept = [path for path in new if "'head x 1'" in path]
    assert len(kept) == 3  # A count and two moments of head/bias.
    for path in kept:
        np.testing.assert_array_equal(new[path], old[path])
        assert np.any(new[path] != 0)
    fresh = [path for path in new if " since 2" in path]
    assert any("['head']['kernel']" in path for path in fresh)
    assert all(not np.any(new[path]) for path in fresh)
    np.testing.assert_array_equal(after.ema["params/head/bias"], before.ema["params/head/bias"])
    np.testing.assert_array_equal(after.ema["params/conv2/kernel"], before.params["conv2"]["kernel"])
    # Adam's first step is one of the full rate, for leaves that are new as for those of a new run.
    moved = run(after, plan[1], optimizers[1])
    single = jax.jit(
        partial(
            train_step, model=model, optimizer=optimizers[1], groups=plan[1].labels, options=StepOptions(ema_decay=0.9)
        )
    )(after, batch())[0]
    step = np.abs(np.asarray(single.params["head"]["kernel"] - after.params["head"]["kernel"]))
    np.testing.assert_allclose(step, 0.01, rtol=1e-3)
    assert jnp.isfinite(flatten(moved.params)["conv2/kernel"]).all()
