import numpy as np
from flax.core import freeze

from jaxtl.trees import flatten, nest

TREE = {"head": {"kernel": 1, "bias": 2}, "block1": {"attn": {"qkv": {"kernel": 3}}}, "cls_token": 4}
LEAVES = {"head/kernel": 1, "head/bias": 2, "block1/attn/qkv/kernel": 3, "cls_token": 4}


def test_paths_keep_the_order_of_the_tree():
    assert list(flatten(TREE).items()) == list(LEAVES.items())
    assert flatten(freeze(TREE)) == LEAVES


def test_nest_is_the_inverse():
    assert nest(LEAVES) == TREE
    assert list(nest(LEAVES)) == ["head", "block1", "cls_token"]


def test_what_is_no_mapping_is_a_leaf_and_empty_mappings_leave_no_trace():
    leaf = np.zeros((2, 3))
    flat = flatten({"a": {"b": leaf, "c": {}}, "d": [1, 2], "e": None})
    assert list(flat) == ["a/b", "d", "e"]
    assert flat["a/b"] is leaf
    assert (flatten({}), nest({})) == ({}, {})
