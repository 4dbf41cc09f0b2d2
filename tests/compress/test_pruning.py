import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.compress.pruning import (
    Pruning,
    count_zeros,
    magnitude_masks,
    prunable,
    prune,
    prune_updates,
    structured_mask,
    with_zeros,
)
from jaxtl.compress.schedule import cubic_sparsity


def test_the_smallest_go_and_of_all_together_those_of_the_small_kernel():
    leaves = {"a": jnp.array([[1.0, -2.0], [3.0, -4.0]]), "b": jnp.array([[10.0, -20.0], [30.0, -40.0]])}
    masks = magnitude_masks(leaves, 0.5)
    assert masks["a"].tolist() == [[False, False], [False, False]]
    assert masks["b"].tolist() == [[True, True], [True, True]]
    masks = magnitude_masks(leaves, 0.5, groups={"a": "first", "b": "second"})
    assert masks["a"].tolist() == masks["b"].tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_the_share_is_met_to_the_weight_and_no_pruned_one_is_larger_than_a_kept_one(sparsity):
    rng = np.random.default_rng(round(1000 * sparsity))
    for _ in range(5):
        shapes = [tuple(rng.integers(1, 40, 2)) for _ in range(3)]
        leaves = {str(i): jnp.asarray(rng.normal(0, 1 + i, shape), jnp.float32) for i, shape in enumerate(shapes)}
        masks = magnitude_masks(leaves, sparsity)
        kept = np.concatenate([np.abs(leaves[key])[np.asarray(masks[key])] for key in leaves])
        gone = np.concatenate([np.abs(leaves[key])[~np.asarray(masks[key])] for key in leaves])
        assert len(gone) == round(sparsity * (len(kept) + len(gone)))
        assert not len(gone) or gone.max() < kept.min()


def test_two_of_four_inputs_of_each_unit_stay():
    kernel = jnp.array([[1.0, 9.0], [-2.0, 8.0], [3.0, 7.0], [-4.0, 6.0], [0.1, 0.2]])
    assert structured_mask(kernel).T.tolist() == [[False, False, True, True, True], [True, True, False, False, True]]
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 16, 5))
    mask = np.asarray(structured_mask(kernel))
    assert (mask.reshape(3, 3, 4, 4, 5).sum(3) == 2).all()
    assert structured_mask(jnp.ones((4, 1)))[:, 0].tolist() == [True, True, False, False]


def test_cubic_sparsity_is_that_of_the_paper():
    steps = [0, 10, 20, 35, 60, 99]
    # Zhu and Gupta: s_f + (s_i - s_f) (1 - (t - t_0) / (n dt)) ** 3, with s_i = 0, t_0 = 10 and n dt = 50.
    expected = [0, 0, 0.8 - 0.8 * 0.8**3, 0.8 - 0.8 * 0.5**3, 0.8, 0.8]
    found = [float(cubic_sparsity(step, 0.8, begin=10, end=60)) for step in steps]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_kernels_are_prunable_but_for_the_first_and_those_of_heads():
    shapes = {
        "conv1/kernel": (3, 3, 3, 3),
        "conv/kernel": (3, 3, 3, 8),
        "conv/bias": (8,),
        "aux1/kernel": (8, 2),
        "head/kernel": (8, 2),
    }
    groups = {
        "conv1/kernel": "stem",
        "conv/kernel": "stem",
        "conv/bias": "stem",
        "aux1/kernel": "aux1",
        "head/kernel": "head",
    }
    assert prunable(shapes, groups, "conv1/kernel") == ("conv/kernel",)


def _params(seed=0):
    key = jax.random.key(seed)
    return {"a": {"kernel": jax.random.normal(key, (8, 6))}, "b": {"kernel": jax.random.normal(key, (6, 4))}}


@pytest.mark.parametrize("make", [lambda: optax.adamw(0.1, weight_decay=0.1), lambda: optax.sgd(0.1, momentum=0.9)])
def test_what_is_zero_stays_zero_under_any_optimizer_and_the_rest_moves_as_without(make):
    pruning = Pruning(("a/kernel",), 0.5)
    params = plain = prune(_params(), pruning)
    optimizer, alone = prune_updates(make(), pruning), make()
    state, other = optimizer.init(params), alone.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for seed in range(5):
        grads = jax.tree.map(lambda x, seed=seed: jax.random.normal(jax.random.key(seed), x.shape), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, other = alone.update(grads, other, plain)
        plain = optax.apply_updates(plain, updates)
    kept = np.asarray(prune(_params(), pruning)["a"]["kernel"]) != 0
    assert (np.asarray(params["a"]["kernel"]) == np.where(kept, plain["a"]["kernel"], 0)).all()
    assert (params["b"]["kernel"] == plain["b"]["kernel"]).all()
    assert count_zeros(params, ["a/kernel"]) == (24, 48)


def test_on_a_ramp_the_zeros_grow_every_few_steps_and_none_comes_back():
    pruning = Pruning(("a/kernel", "b/kernel"), 0.75, end=10, every=4)
    params, optimizer = _params(), prune_updates(optax.sgd(0.05), pruning)
    state, counts, before = optimizer.init(params), [], jax.tree.map(lambda x: x == 0, params)
    update = jax.jit(lambda grads, state, params, step: optimizer.update(grads, state, params, step=step))
    for step in range(12):
        grads = jax.tree.map(lambda x, step=step: jax.random.normal(jax.random.key(step), x.shape), params)
        updates, state = update(grads, state, params, step)
        params = jax.tree.map(jnp.add, params, updates)
        counts.append(count_zeros(params, pruning.paths)[0])
        zero = jax.tree.map(lambda x: x == 0, params)
        assert all(jax.tree.leaves(jax.tree.map(lambda was, now: bool((~was | now).all()), before, zero)))
        before = zero
    # After steps 4 and 8 the share of 72 weights that the schedule says, after step 10 three quarters.
    four, eight = (round(72 * float(cubic_sparsity(step, 0.75, begin=0, end=10))) for step in (4, 8))
    assert counts == [0, 0, 0, four, four, four, four, eight, eight, 54, 54, 54]


def test_averages_are_zero_where_parameters_are():
    params = {"a": {"kernel": jnp.array([0.0, 1.0])}, "b": jnp.array([0.0])}
    average = {"params/a/kernel": jnp.array([5.0, 6.0]), "params/b": jnp.array([7.0])}
    found = with_zeros(average, params, ["a/kernel", "frozen/kernel"])
    assert {key: leaf.tolist() for key, leaf in found.items()} == {"params/a/kernel": [0.0, 6.0], "params/b": [7.0]}
