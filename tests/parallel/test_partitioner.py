from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.parallel.state_step import Leaves, as_taken, tree_of


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_put_and_get(name):
    partitioner = make_partitioner(name)
    state = {"a": jnp.arange(3.0), "key": jax.random.key(0)}
    placed = partitioner.shard_state(state)
    np.testing.assert_array_equal(partitioner.gather(placed)["a"], [0, 1, 2])
    assert partitioner.devices == jax.device_count() == 2


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_each_device_holds_half_of_the_rows(name):
    partitioner = make_partitioner(name)
    batch = partitioner.shard_batch({"image": np.arange(8.0).reshape(4, 2)})

    def step(weights, batch, axis_name=None):
        total = (batch["image"] * weights[None]).sum()
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    weights = partitioner.shard_state(jnp.ones(2))
    assert float(partitioner.gather(partitioner.compile(step, weights, batch)(weights, batch))) == 28


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_donation_reuses_the_buffers_and_spares_the_original(name):
    partitioner = make_partitioner(name)
    original = jnp.zeros((256, 256))
    placed = partitioner.shard_state(original)
    batch = partitioner.shard_batch({"x": np.ones((2, 256), np.float32)})
    compiled = partitioner.compile(lambda w, b, axis_name=None: (w + 1.0, {}), placed, batch, donate=True)
    after, _ = compiled(placed, batch)
    assert placed.is_deleted()
    np.testing.assert_array_equal(partitioner.gather(after), 1.0)
    np.testing.assert_array_equal(original, 0.0)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="jit, pmap"):
        make_partitioner("tpu")


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def state():
    return {"rng": jax.random.key(3), "x": Pair(jnp.arange(4.0), jnp.ones(2)), "none": ()}


def add(state, batch):
    key, draw = jax.random.split(state["rng"])
    moved = jax.tree.map(lambda x: x + jax.random.normal(draw, x.shape), state["x"])
    return {**state, "rng": key, "x": moved}, {"sum": batch["image"].sum()}


def test_a_state_as_leaves_becomes_the_tree_again():
    leaves = Leaves.of(state())
    assert [x.dtype for x in leaves.arrays] == [jnp.uint32, jnp.float32, jnp.float32]
    again = leaves.tree()
    assert jax.tree.structure(again) == jax.tree.structure(state())
    np.testing.assert_array_equal(jax.random.key_data(again["rng"]), jax.random.key_data(jax.random.key(3)))
    np.testing.assert_array_equal(again["x"].left, [0, 1, 2, 3])
    assert tree_of(leaves)["none"] == ()


def test_a_step_gives_leaves_for_leaves_and_a_tree_for_a_tree_with_the_same_numbers():
    partitioner = make_partitioner()
    batch = partitioner.shard_batch({"image": np.ones((4, 2), np.float32)})
    step = partitioner.compile(add, partitioner.shard_state(state()), batch, donate=True)
    tree, leaves = partitioner.shard_state(state()), as_taken(partitioner.shard_state(state()), step)
    assert isinstance(leaves, Leaves)
    for _ in range(3):
        (tree, scalars), (leaves, _) = step(tree, batch), step(leaves, batch)
    assert isinstance(tree, dict)
    assert isinstance(leaves, Leaves)
    assert scalars["sum"] == 8
    expected = state()
    for _ in range(3):
        expected, _ = add(expected, {"image": np.ones((4, 2))})
    for found in (tree, leaves.tree()):
        np.testing.assert_allclose(found["x"].left, expected["x"].left, rtol=1e-6)
        np.testing.assert_array_equal(jax.random.key_data(found["rng"]), jax.random.key_data(expected["rng"]))


def test_the_buffers_of_leaves_are_given_away():
    partitioner = make_partitioner()
    batch = partitioner.shard_batch({"image": np.ones((4, 2), np.float32)})
    step = partitioner.compile(add, partitioner.shard_state(state()), batch, donate=True)
    leaves = Leaves.of(partitioner.shard_state(state()))
    step(leaves, batch)
    assert all(x.is_deleted() for x in leaves.arrays)


def test_a_step_that_changes_the_structure_of_its_state_is_refused():
    partitioner = make_partitioner()
    with pytest.raises(ValueError, match="another structure"):
        partitioner.compile(
            lambda state, batch: ({**state, "more": jnp.ones(())}, {}),
            partitioner.shard_state(state()),
            partitioner.shard_batch({"image": np.ones((4, 2), np.float32)}),
            donate=True,
        )


def test_other_steps_take_states_as_they_are():
    assert as_taken({"x": 1}, add) == {"x": 1}
