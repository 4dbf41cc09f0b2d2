"""The rename engine, on tables of its own and on all those of the model files."""

import re

import numpy as np
import pytest

from jaxtl.models import families
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.pretrained import rename
from jaxtl.pretrained.layouts import LEAVES

TABLE = KeyMapping(
    "sample",
    "torch",
    (
        ("stem.{i}.conv", "layer{i+1}/conv", "conv"),
        ("blocks.{i}.attention.query", "block{i}/qkv", "dense query"),
        ("blocks.{i}.attention.key", "block{i}/qkv", "dense key"),
        ("blocks.{i}.attention.value", "block{i}/qkv", "dense value"),
        ("norm", "norm", "batchnorm"),
        ("head", "head", "dense"),
    ),
    prefixes=("net.", ""),
    unused=(r"pooler\..*",),
)


def test_numbers_are_carried_over_and_shifted():
    plan = rename.plan(["net.stem.0.conv.weight", "net.stem.11.conv.weight", "head.bias"], TABLE)
    assert {path: [part.source for part in parts] for path, parts in plan.parts.items()} == {
        "params/layer1/conv/kernel": ["net.stem.0.conv.weight"],
        "params/layer12/conv/kernel": ["net.stem.11.conv.weight"],
        "params/head/bias": ["head.bias"],
    }


def test_arrays_are_unknown_or_left_out_never_forgotten():
    plan = rename.plan(["net.pooler.weight", "net.stem.x.conv.weight", "norm.weightx"], TABLE)
    assert plan.unused == ("net.pooler.weight",)
    assert plan.unknown == ("net.stem.x.conv.weight", "norm.weightx")


def test_queries_keys_and_values_are_joined_in_that_order_whatever_theirs():
    arrays = {
        "net.blocks.0.attention.value.weight": np.full((2, 3), 3),
        "net.blocks.0.attention.query.weight": np.array([[1, 2, 3], [4, 5, 6]]),
        "net.blocks.0.attention.key.weight": np.full((2, 3), 2),
    }
    plan = rename.plan(arrays, TABLE)
    (parts,) = plan.parts.values()
    assert plan.shapes({name: array.shape for name, array in arrays.items()}) == {"params/block0/qkv/kernel": (3, 6)}
    expected = [[1, 4, 2, 2, 3, 3], [2, 5, 2, 2, 3, 3], [3, 6, 2, 2, 3, 3]]
    np.testing.assert_array_equal(rename.fill(parts, arrays), expected)


def test_a_missing_part_leaves_a_leaf_that_fits_nothing():
    names = ["net.blocks.0.attention.value.weight", "net.blocks.0.attention.query.weight"]
    plan = rename.plan(names, TABLE)
    assert plan.shapes(dict.fromkeys(names, (2, 3))) == {"params/block0/qkv/kernel": ()}


def test_statistics_go_to_their_collection():
    plan = rename.plan(["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"], TABLE)
    assert list(plan.parts) == [
        "params/norm/scale",
        "params/norm/bias",
        "batch_stats/norm/mean",
        "batch_stats/norm/var",
    ]


KEY_MAPPINGS = [
    pytest.param(
        family,
        key_mapping,
        id=f"{family.__name__.rpartition('.')[2]}-{key_mapping.name}-{key_mapping.prefixes[0]}{i}",
        # Those of the deepest EfficientNets, which differ from the others in their numbers alone.
        marks=[pytest.mark.slow] * (len(key_mapping.rows) > 300),
    )
    for family in families()
    for i, key_mapping in enumerate(family.KEY_MAPPINGS)
    if key_mapping.layout == "torch"
]


# Of our leaves that are no kernels; the others are vectors.
SHAPES = {"token": (1, 1, 6), "batched": (1, 4, 6), "offsets": (9, 6)}


@pytest.mark.parametrize(("family", "key_mapping"), KEY_MAPPINGS)
def test_every_table_read_backwards_and_forwards_gives_the_same_leaves(family, key_mapping):
    del family
    generator = np.random.default_rng(0)
    leaves = {}
    for _, target, kind in key_mapping.rows:
        for suffix, path, transform in LEAVES["torch"][kind.partition(" ")[0]]:
            del suffix, transform
            path = re.sub(r"\{\w(\+\d)?\}", "3", path.format(target))
            shape = SHAPES.get(kind, (6,))
            if path.endswith("/kernel"):
                shape = (2, 3, 4, 6) if kind == "conv" else (4, 6)
            if path.endswith("/kernel") and kind.startswith("grid"):
                shape = (int(kind.removeprefix("grid")),) * 2 + shape
            leaves[path] = generator.normal(size=shape)
    source = rename.to_source_keys(leaves, key_mapping)
    plan = rename.plan(source, key_mapping)
    assert not plan.unknown
    assert set(plan.parts) == set(leaves)
    for path, parts in plan.parts.items():
        np.testing.assert_array_equal(rename.fill(parts, source), leaves[path])


def test_a_leaf_without_a_name_is_an_error_that_lists_it():
    with pytest.raises(ValueError, match="no name for params/other/kernel"):
        rename.to_source_keys({"params/other/kernel": np.ones((2, 2))}, TABLE)


def test_arrays_of_nobody_are_of_no_family():
    assert rename.recognise(["encoder.weird.weight", "x"]) is None
