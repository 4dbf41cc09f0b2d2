"""Gradients of a model of two weights, against those by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.train.gradients import Objective, gradients, sam_perturb

GROUPS = {"scale": "frozen", "slope": "head"}


class Line(nn.Module):
    """Logits [x * slope * scale, 0]."""

    @nn.compact
    def __call__(self, x, train=False):
        slope, scale = (self.param(name, nn.initializers.ones, (1,)) for name in ("slope", "scale"))
        self.variable("counts", "calls", jnp.zeros, ()).value += 1.0
        return jnp.concatenate([x * slope[None] * scale[None], jnp.zeros_like(x)], axis=-1)


def square(logits, labels):
    """The squared distance of the first logit from the label."""
    return jnp.square(logits[:, 0] - labels)


BATCH = {"image": jnp.array([[1.0], [2.0], [3.0], [4.0]]), "label": jnp.array([1, 2, 0, 7]), "mask": jnp.ones(4)}
TRAINABLE, FROZEN, COUNTS = (
    {"slope": jnp.array([2.0])},
    {"scale": jnp.array([3.0])},
    {"counts": {"calls": jnp.zeros(())}},
)


def compute(batch=BATCH, objective=None, **options):
    objective = objective or Objective(Line(), GROUPS, square)
    return gradients(TRAINABLE, FROZEN, COUNTS, batch, jax.random.key(0), objective=objective, **options)


# Logits are 6, 12, 18 and 24, and their distances from the labels 5, 10, 18 and 17; d logit / d slope is 3 x.
LOSS = (25 + 100 + 324 + 289) / 4
SLOPE = 2 * (5 * 3 + 10 * 6 + 18 * 9 + 17 * 12) / 4


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_only_what_trains_has_a_gradient_and_parts_add_up(accumulate):
    grads, model_state, scalars = compute(accumulate=accumulate)
    assert list(grads) == ["slope"]
    np.testing.assert_allclose(grads["slope"], [SLOPE], rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], LOSS, rtol=1e-6)
    # Of rows with labels 1, 2, 0 and 7, the third is the class of the larger logit.
    assert float(scalars["accuracy"]) == 0.25
    assert float(model_state["counts"]["calls"]) == accumulate


@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_of_mask_0_are_not_in_the_mean(accumulate):
    grads, _, scalars = compute({**BATCH, "mask": jnp.array([1.0, 0.0, 1.0, 0.0])}, accumulate=accumulate)
    np.testing.assert_allclose(grads["slope"], [2 * (5 * 3 + 18 * 9) / 2], rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], (25 + 324) / 2, rtol=1e-6)
    assert float(scalars["accuracy"]) == 0.5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_count_in_the_loss_and_not_in_the_accuracy(accumulate):
    grads, _, scalars = compute({**BATCH, "mask": jnp.array([0.5, 0.0, 2.0, 0.25])}, accumulate=accumulate)
    np.testing.assert_allclose(grads["slope"], [2 * (0.5 * 5 * 3 + 2 * 18 * 9 + 0.25 * 17 * 12) / 3], rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], (0.5 * 25 + 2 * 324 + 0.25 * 289) / 3, rtol=1e-6)
    assert float(scalars["accuracy"]) == pytest.approx(1 / 3)


def test_a_scale_on_the_loss_is_taken_off_again():
    grads, _, scalars = compute(scale=jnp.asarray(1024.0))
    np.testing.assert_allclose(grads["slope"], [SLOPE], rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], LOSS, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_penalty_is_of_the_trainable_leaves_and_not_in_the_loss(accumulate):
    objective = Objective(Line(), GROUPS, square, penalty=lambda leaves: 5 * jnp.square(leaves["slope"]).sum())
    grads, _, scalars = compute(objective=objective, accumulate=accumulate)
    np.testing.assert_allclose(grads["slope"], [SLOPE + 2 * 5 * 2.0], rtol=1e-6)
    assert float(scalars["penalty"]) == 20.0
    np.testing.assert_allclose(scalars["loss"], LOSS, rtol=1e-6)


def test_under_pmap_each_device_has_the_gradient_of_the_whole_batch():
    objective = Objective(Line(), GROUPS, square, axis_name="data")
    rows = {key: value.reshape(2, 2, *value.shape[1:]) for key, value in BATCH.items()}
    # The devices hold 2 rows and 1 row that count: a mean of their means would be another number.
    rows["mask"] = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    grads, _, scalars = jax.pmap(lambda batch: compute(batch, objective), axis_name="data")(rows)
    np.testing.assert_allclose(grads["slope"], np.full((2, 1), 2 * (5 * 3 + 10 * 6 + 18 * 9) / 3), rtol=1e-6)
    np.testing.assert_allclose(scalars["loss"], [449 / 3] * 2, rtol=1e-6)


def test_sam_goes_uphill_by_its_radius_over_all_leaves():
    leaves = {"a": jnp.array([1.0]), "b": jnp.array([[2.0]])}
    moved = sam_perturb(leaves, {"a": jnp.array([3.0]), "b": jnp.array([[-4.0]])}, 0.5)
    np.testing.assert_allclose(moved["a"], [1.0 + 0.5 * 3 / 5], rtol=1e-6)
    np.testing.assert_allclose(moved["b"], [[2.0 - 0.5 * 4 / 5]], rtol=1e-6)
    still = sam_perturb(leaves, {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}, 0.5)
    np.testing.assert_array_equal(still["a"], leaves["a"])
