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


def descent(rates, *, at=1e-3, noise=0.0, seed=0):
    """Losses from 2 to 1 that have fallen half way at a rate, and grow from 1e-1 on."""
    clean = 2 - 1 / (1 + (rates / at) ** -1.0) + np.where(rates > 1e-1, 20 * np.log10(rates / 1e-1), 0)
    return clean + noise * np.random.default_rng(seed).normal(size=len(rates))


RATES = np.logspace(-6, 1, 71)


@pytest.mark.parametrize(("at", "expected"), [(1e-4, 2.0e-4), (1e-3, 1.6e-3)])
def test_recommended_is_where_six_tenths_of_the_descent_are_behind(at, expected):
    found = lr_range_test.recommend(RATES, descent(RATES, at=at))
    # 60 % of a logistic descent are behind at 1.5 times the rate of its middle; a sweep has ten steps a decade here.
    assert found.rate == pytest.approx(expected, rel=0.02)
    assert found.reason.startswith("there the loss has fallen by 60% of what it falls in the sweep, from 1.9")
    assert found.reason.endswith("; it diverges at 0.32")
    assert found.warning == ""


def test_noise_moves_a_recommendation_by_less_than_three_times():
    found = [lr_range_test.recommend(RATES, descent(RATES, noise=0.1, seed=seed)).rate for seed in range(20)]
    assert max(found) < 3 * min(found)
    assert min(found) > 1.5e-3 / 3
    assert max(found) < 1.5e-3 * 3


def test_it_says_where_the_loss_still_falls_at_the_end_and_where_it_never_does():
    found = lr_range_test.recommend(RATES[:31], descent(RATES[:31]))
    assert found.rate == pytest.approx(5e-4, rel=0.3)
    assert found.warning == "The loss still falls at the end of the sweep: give a range that ends higher."
    flat = 2 + 0.1 * np.random.default_rng(0).normal(size=71)
    found = lr_range_test.recommend(RATES, flat)
    assert found.rate is None
    assert found.reason.startswith("the loss never falls from its ")
    assert found.warning.startswith("Give a wider range or more steps")
    found = lr_range_test.recommend(RATES[51:], descent(RATES)[51:])  # It begins where it diverges.
    assert found.rate is None
    assert found.warning == "Give a range that begins lower, or more steps."


def sweep_of_a_head(seed, rates, *, classes=10, width=64, rows=32):
    """Returns the losses of softmax regression by plain gradient descent, on classes that overlap."""
    rng = np.random.default_rng(seed)
    means, kernel, losses = np.random.default_rng(99).normal(size=(classes, width)), np.zeros((width, classes)), []
    for rate in rates:
        labels = rng.integers(classes, size=rows)
        inputs = means[labels] + 1.5 * rng.normal(size=(rows, width))
        logits = inputs @ kernel
        logs = logits - logits.max(1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        losses.append(-logs[np.arange(rows), labels].mean())
        kernel -= rate * inputs.T @ (np.exp(logs) - np.eye(classes)[labels]) / rows
    return np.asarray(losses)


def test_of_a_small_net_the_seeds_agree():
    rates = np.logspace(-7, 1, 100)
    found = [lr_range_test.recommend(rates, sweep_of_a_head(seed, rates)) for seed in range(10)]
    assert max(each.rate for each in found) < 2 * min(each.rate for each in found)
    assert 3e-3 < found[0].rate < 0.3


def test_a_loss_that_is_not_finite_has_diverged():
    assert lr_range_test.diverged_at(np.array([1.0, 0.9, np.nan, 0.5])) == 2
    assert lr_range_test.diverged_at(np.array([1.0, 0.9])) == np.inf


def setup(unfreeze="all"):
    variables = jax.jit(Net().init)(jax.random.key(1), batch()["image"])
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


@pytest.mark.slow
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


@pytest.mark.parametrize("losses", [[np.nan] * 10, [2.0, *[np.nan] * 9], [1.0, 9.0, 99.0, *[np.inf] * 7]])
def test_no_rate_is_recommended_where_the_loss_is_not_finite_from_the_start(losses):
    rates = np.geomspace(1e-7, 1, 10)
    found = lr_range_test.recommend(rates, np.asarray(losses))
    assert found.rate is None
    assert "the loss is not finite, or grows, from the first steps on" in found.reason
