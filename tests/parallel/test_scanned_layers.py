"""Scanned layers: names, and the way there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.parallel import mesh as mesh_lib
from jaxtl.parallel.scanned_layers import blocks_of, name_of, stack_layers, unstack_layers

BLOCKS = {
    "block0": {"fc": {"kernel": np.full((2, 3), 0.0), "bias": np.zeros(3)}},
    "block1": {"fc": {"kernel": np.full((2, 3), 1.0), "bias": np.ones(3)}},
    "block2": {"fc": {"kernel": np.full((2, 3), 2.0), "bias": np.full(3, 2.0)}},
    "head": {"kernel": np.ones((3, 2))},
}


@pytest.mark.parametrize(
    ("blocks", "name"),
    [(["block0", "block1"], "block0-1"), (["block9", "block10", "block11"], "block9-11"), (["b2_7", "b2_8"], "b2_7-8")],
)
def test_a_stack_is_called_after_its_first_and_last_block(blocks, name):
    assert name_of(blocks) == name
    assert blocks_of(name) == blocks


@pytest.mark.parametrize("name", ["block0", "head", "layer1_0", "block0 x 1", "a-b", "0-1", ""])
def test_other_names_are_none_of_stacks(name):
    assert blocks_of(name) == []


def test_blocks_lie_one_after_the_other_and_come_back_as_they_were():
    tree = stack_layers(BLOCKS, ["block1-2"])
    assert jax.tree.map(jnp.shape, tree) == {
        "block0": {"fc": {"kernel": (2, 3), "bias": (3,)}},
        "block1-2": {"fc": {"kernel": (2, 2, 3), "bias": (2, 3)}},
        "head": {"kernel": (3, 2)},
    }
    np.testing.assert_array_equal(tree["block1-2"]["fc"]["bias"], [[1, 1, 1], [2, 2, 2]])
    assert stack_layers(tree, ["block1-2"]) == tree  # The very same arrays.
    back = unstack_layers(tree)
    assert jax.tree.structure(back) == jax.tree.structure(BLOCKS)
    jax.tree.map(np.testing.assert_array_equal, back, BLOCKS)


def test_what_is_differentiated_block_by_block_takes_no_sums():
    tree = stack_layers(BLOCKS, ["block0-2"])

    def loss(tree):
        blocks = unstack_layers(tree)
        return sum((i + 1) * blocks[f"block{i}"]["fc"]["kernel"].sum() for i in range(3))

    slopes = jax.grad(loss)(tree)["block0-2"]["fc"]["kernel"]
    np.testing.assert_array_equal(slopes, np.broadcast_to(np.array([1.0, 2.0, 3.0])[:, None, None], (3, 2, 3)))
    assert "add_any" not in str(jax.make_jaxpr(jax.grad(loss))(tree))


def test_a_stack_is_cut_as_each_of_its_blocks_would_be():
    mesh = mesh_lib.make_mesh(jax.devices()[:1], {})
    shapes = {
        "params": {
            "block1-2": {"kernel": jax.ShapeDtypeStruct((2, 64, 64), "f"), "bias": jax.ShapeDtypeStruct((2, 64), "f")}
        }
    }
    rules = {"params/block[12]/kernel": ("fsdp", None), "block1/bias": (), "block2/bias": ()}
    mesh_lib.check_rules(shapes, mesh, rules)
    found = jax.tree.map(lambda x: tuple(x.spec), mesh_lib.of_state(shapes, mesh, rules))
    assert found == {"params": {"block1-2": {"kernel": (None, "fsdp", None), "bias": ()}}}
    with pytest.raises(UserError, match="shard params/block1/kernel and params/block2/kernel in different ways"):
        mesh_lib.of_state(shapes, mesh, {"block2/kernel": ("fsdp", None)})
