from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import TABLE, Net, batch

from jaxtl.finetune import param_groups as groups_lib
from jaxtl.train import lr_range_test
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step
from jaxtl.trees import flatten


def test_the_rate_grows_by_a_constant_factor():
    rates = np.asarray(lr_range_test.exponential(1e-4, 1.0, 5)(np.arange(5)))
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2, 1e-1, 1.0], rtol=1e-5)


def test_suggestions_by_hand():
    rates = np.logspace(-6, 1, 71)
    # Flat, a descent whose steepest place is 1e-3, the lowest point at 1e-1, and then up.
    losses = 2 - 1 / (1 + (rates / 1e-3) ** -1.0) + np.where(rates > 1e-1, 20 * np.log10(rates / 1e-1), 0)
    suggestions = lr_range_test.suggest(rates, losses)
    # The moving average lags by about ten steps of a tenth of a decade.
    assert 1e-3 < suggestions["steepest"] < 3e-2
    assert 1e-2 < 10 * suggestions["minimum/10"] < 3e-1
    assert suggestions["valley"] < 1e-1
    assert 1e-1 < suggestions["diverges"] < 1
    assert "diverges" not in lr_range_test.suggest(rates[:40], losses[:40])


def test_a_loss_that_is_not_finite_has_diverged():
    assert lr_range_test.diverged_at(np.array([1.0, 0.9, np.nan, 0.5])) == 2
    assert lr_range_test.diverged_at(np.array([1.0, 0.9])) == np.inf


def setup(unfreeze="all"):
    variables = Net().init(jax.random.key(1), batch()["image"])
    owners = groups_lib.assign(variables["params"], TABLE)
    labels = groups_lib.select(owners, unfreeze)
    optimizer = make_optimizer(
        labels, OptimizerOptions(name="sgd", momentum=0.0, learning_rate=lr_range_test.exponential(1e-3, 1e3, 25))
    )

    def make_step(masks):
        return partial(train_step, model=Net(), optimizer=lr_range_test.masked(optimizer, owners, masks), groups=labels)

    return TrainState.create(variables, optimizer, jax.random.key(2)), owners, labels, optimizer, make_step


def batches():
    return (batch(8, seed) for seed in range(100))


def test_a_sweep_is_training_with_that_rate_and_leaves_the_state_alone():
    state, owners, labels, optimizer, make_step = setup()
    before = jax.tree.map(np.asarray, state.variables)
    masks = lr_range_test.masks_for(owners, labels, per_group=False)
    found = lr_range_test.sweep(make_step, state, batches, steps=12, masks=masks)["all"]
    step = jax.jit(partial(train_step, model=Net(), optimizer=optimizer, groups=labels))
    now, losses = state, []
    for _, rows in zip(range(12), batches(), strict=False):
        now, scalars = step(now, rows)
        losses.append(float(scalars["loss"]))
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, state.variables))


@pytest.mark.slow
def test_a_group_alone_moves_alone():
    state, owners, _, _, make_step = setup()
    masks = {name: jnp.float32(name == "layer") for name, _ in TABLE}
    after, _ = make_step(masks)(state, batch())
    old, new = flatten(state.params), flatten(after.params)
    moved = {owners[path] for path in old if not np.array_equal(old[path], new[path])}
    assert moved == {"layer"}


@pytest.mark.parametrize(("unfreeze", "names"), [("all", ["stem", "layer", "head"]), ("head", ["head"])])
def test_each_group_that_trains_has_a_sweep(unfreeze, names):
    _, owners, labels, _, _ = setup(unfreeze)
    assert list(lr_range_test.masks_for(owners, labels, per_group=True)) == names
