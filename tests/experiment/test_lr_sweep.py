"""The learning-rate range test of a run: its sweep is training at those rates, and it warns of none but far ones."""

import itertools

import jax
import numpy as np
import pytest
import tiny

from jaxtl.experiment.input_pipeline import read_images
from jaxtl.experiment.lr_sweep import Sweep, run_sweep, warn
from jaxtl.train import lr_range_test


def still(**keys):
    return tiny.still(optimizer__name="sgd", optimizer__momentum=0.0, **keys)


def drawn():
    """Variables of which no layer is zero, as a new head is, which lets no gradient pass."""
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda x: generator.normal(0, 0.5, x.shape).astype(np.float32), tiny.draw_variables())


def sweep(config, given):
    experiment = tiny.experiment(config)
    return run_sweep(experiment, read_images(experiment), drawn(), given)


def test_a_sweep_is_training_whose_rate_grows():
    # A warm-up that the sweep replaces, and a first stage whose factor does not count.
    stages = ({"steps": 2, "unfreeze": "head", "rate": 0.5}, {"steps": 2, "unfreeze": "all"})
    experiment = tiny.experiment(still(optimizer__warmup_steps=1, finetune__stages=stages))
    inputs, given = read_images(experiment), Sweep(steps=5, low=1e-3, high=10.0)
    rates, losses = run_sweep(experiment, inputs, experiment.variables, given)["all"]
    np.testing.assert_allclose(rates, [1e-3, 1e-2, 1e-1, 1.0, 10.0], rtol=1e-5)
    # Five steps of a linear classifier by hand.
    kernel, bias, expected = np.zeros((4, 3)), np.zeros(3), []
    for rate, batch in zip([1e-3, 1e-2, 1e-1, 1.0, 10.0], inputs.batches(0), strict=False):
        x = tiny.features(experiment.variables["params"], (batch["image"] / 127.5 - 1.0).mean((1, 2)))
        powers = np.exp(x @ kernel + bias)
        shares = powers / powers.sum(1, keepdims=True)
        expected.append(-np.log(shares[np.arange(8), batch["label"]]).mean())
        error = (shares - np.eye(3)[batch["label"]]) / 8
        kernel, bias = kernel - rate * x.T @ error, bias - rate * error.sum(0)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize("per_group", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_rule_with_a_rate_of_its_own_keeps_its_proportion(per_group):
    given = Sweep(steps=6, low=1e-2, high=10.0, per_group=per_group)
    ruled = sweep(still(finetune__groups={"body": {"learning_rate": 0.5}}), given)  # Five times that of the others.
    multiplied = sweep(still(finetune__lr_multipliers={"body": 5.0}), given)
    plain = sweep(still(), given)
    assert list(ruled) == (["stem", "body", "head"] if per_group else ["all"])
    for name, (rates, losses) in ruled.items():
        np.testing.assert_array_equal(rates, plain[name][0])  # They are those of the head.
        np.testing.assert_allclose(losses, multiplied[name][1], rtol=1e-5)
    changed = [name for name in ruled if not np.allclose(ruled[name][1], plain[name][1], rtol=1e-4)]
    assert changed == (["body"] if per_group else ["all"])


def test_the_variables_that_are_swept_are_those_given_and_stay():
    experiment = tiny.experiment(still())
    inputs, variables = read_images(experiment), drawn()
    before = jax.tree.map(np.copy, variables)
    given = Sweep(steps=3, low=1e-2, high=1.0)
    losses = run_sweep(experiment, inputs, variables, given)["all"][1]
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    (batch,) = itertools.islice(inputs.batches(0), 1)
    logits = tiny.logits(variables, batch["image"])
    first = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), batch["label"]])
    assert losses[0] == pytest.approx(first, rel=1e-5)
    np.testing.assert_array_equal(run_sweep(experiment, inputs, variables, given)["all"][1], losses)


def test_only_a_rate_far_above_where_it_diverges_is_warned_of(capsys):
    rates, losses = sweep(still(), Sweep(steps=30, low=1e-2, high=1e6))["all"]
    limit = lr_range_test.suggest(rates, losses)["diverges"]
    for factor, warned in ((8, False), (100, True)):
        experiment = tiny.experiment(still(optimizer__learning_rate=factor * limit))
        warn(experiment, read_images(experiment), drawn())
        out = capsys.readouterr().out
        assert out.startswith(f"optimizer.learning_rate is {factor * limit:g}, but") == warned
        assert len(out.splitlines()) == warned
