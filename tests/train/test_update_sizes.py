"""Sizes of updates by hand, on one device and on several, sharded, replicated and stacked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train.scanned_state import with_scanned
from jaxtl.train.state import TrainState
from jaxtl.train.update_sizes import trainable_leaves, update_sizes
from jaxtl.trees import flatten, nest

LEAVES = {
    "stem/kernel": np.full((8, 4), 2.0, np.float32),
    "block0/kernel": np.full((8, 4), 1.0, np.float32),
    "block1/kernel": np.full((8, 4), 4.0, np.float32),
    "head/kernel": np.zeros((4, 3), np.float32),
    "head/bias": np.full(8, -1.0, np.float32),
}
GROUPS = {
    "stem/kernel": "frozen",
    "block0/kernel": "block0",
    "block1/kernel": "block1 since 5",
    "head/kernel": "head",
    "head/bias": "head",
}


def state_of(leaves):
    return TrainState.create({"params": nest(leaves)}, optax.identity(), jax.random.key(0))


@pytest.mark.parametrize("kind", ["one device", "fsdp", "pmap", "stacked"])
def test_sizes_are_those_of_each_array(kind):
    devices = jax.devices()[: 1 if kind == "one device" else 2]
    name, mesh = ("pmap", {}) if kind == "pmap" else ("jit", {"data": 1, "fsdp": -1})
    partitioner = make_partitioner(name, devices=devices, **({"mesh": mesh} if mesh else {}))
    if kind == "stacked":
        partitioner = with_scanned(partitioner, ["block0-1"])
    state = partitioner.shard_state(state_of(LEAVES))
    before = trainable_leaves(state, partitioner, GROUPS)
    moved = jax.tree.map(lambda x: x + 0.01 * jnp.ones_like(x), state.params)
    after = trainable_leaves(dataclasses.replace(state, params=moved), partitioner, GROUPS)
    found = update_sizes(before, after, GROUPS)
    assert found.keys() == {"updates/block0", "updates/block1", "updates/head"}
    np.testing.assert_allclose(found["updates/block0"], [-2.0], atol=1e-4)
    np.testing.assert_allclose(found["updates/block1"], [np.log10(0.01 / 4)], atol=1e-4)
    # A kernel of zeros has no such size.
    np.testing.assert_allclose(found["updates/head"], [-2.0], atol=1e-4)


def test_what_does_not_move_has_no_size():
    partitioner = make_partitioner(devices=jax.devices()[:1])
    leaves = trainable_leaves(partitioner.shard_state(state_of(LEAVES)), partitioner, GROUPS)
    assert set(leaves) == set(flatten(nest(LEAVES))) - {"stem/kernel"}
    assert all(len(values) == 0 for values in update_sizes(leaves, leaves, GROUPS).values())
