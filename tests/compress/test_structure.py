import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.compress.structure import Cut, Units, choose_widths, cut_units, importance
from jaxtl.models.base import GroupedModel
from jaxtl.profiling.flops import count_flops
from jaxtl.trees import flatten, nest

VIT = "vit_petals:depth=3,width=32,heads=4,patch=16"
NAMES = {
    VIT: ("block_mlp", "block_heads"),
    "resnet20_cifar:blocks=1,width=8": ("inner",),
    "resnet18:stages=1-1,width=8": ("inner",),
    "resnet50:stages=1-1,width=8": ("inner",),
}


def build(name, **fields) -> GroupedModel:
    return models.build(models.with_fields(name, **fields), num_classes=3, image_size=64)


def drawn(module, seed=0):
    """Returns variables with every leaf drawn, so that nothing is left out for being zero, or one."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    rng = np.random.default_rng(seed)
    # In order of the paths; a variance is positive.
    return {path: np.abs(rng.normal(0, 0.3, leaf.shape)).astype(np.float32) for path, leaf in flatten(shapes).items()}


def flops(module) -> int:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return count_flops(lambda tree, x: module.apply(tree, x, train=False), shapes, image)


def test_places_of_a_head_in_queries_keys_and_values():
    # Three times two heads of two channels each.
    assert Cut("qkv", 1, size=2, times=3).places([1], 2).tolist() == [2, 3, 6, 7, 10, 11]
    assert Cut("proj", 0, size=2).places([0], 2).tolist() == [0, 1]


def test_importance_is_the_product_of_norms_beside_the_mean_of_the_layer():
    units = Units("mlp", "widths", 0, 2, (Cut("in", 1), Cut("out", 0)), ())
    leaves = {"in": np.array([[3.0, 0.0], [4.0, 1.0]]), "out": np.array([[2.0], [6.0]])}
    # Norms 5 and 1, times 2 and 6: 10 and 6, whose mean is 8.
    assert importance(units, leaves).tolist() == [1.25, 0.75]
    # With inputs whose squares are 9 and 1: 3 times 2, and 1 times 6.
    reading = Units("mlp", "widths", 0, 2, (Cut("in", 1), Cut("params/fc2/kernel", 0)), ())
    known = {"fc2/squares": np.array([9.0, 1.0])}
    assert importance(reading, {"in": leaves["in"], "params/fc2/kernel": leaves["out"]}, known).tolist() == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_units_whose_outgoing_weights_are_zero_go_and_nothing_changes(name):
    module = build(name)
    leaves = drawn(module)
    layers = module.removable()
    rng = np.random.default_rng(1)
    for units in layers:  # What reads half of the units of each layer is zero.
        reading = units.weighed[-1]
        gone = rng.permutation(units.count)[: units.count // 2]
        index = [slice(None)] * leaves[reading.path].ndim
        index[reading.axis] = reading.places(gone, units.count)
        leaves[reading.path][tuple(index)] = 0
    fields: dict[str, tuple[int, ...]] = {}
    for units in layers:
        numbers = fields.get(units.field, ())
        fields[units.field] = numbers if len(numbers) > units.index else (*numbers, units.count - units.count // 2)
    assert tuple(fields) == NAMES[name]
    small = build(name, **fields)
    scores = {units.name: importance(units, leaves) for units in layers}
    cut = cut_units(leaves, layers, scores, fields)
    shapes = {path: leaf.shape for path, leaf in drawn(small).items()}
    assert {path: leaf.shape for path, leaf in cut.items()} == shapes
    images = jax.random.normal(jax.random.key(2), (2, 64, 64, 3))
    before, after = (
        jax.jit(lambda tree, x, m=m: m.apply(tree, x, train=False))(nest(tree), images)
        for m, tree in ((module, leaves), (small, cut))
    )
    np.testing.assert_allclose(before, after, rtol=2e-4, atol=1e-4 * float(jnp.abs(before).max()))
    assert flops(small) < flops(module)
    # From shapes alone a module of the same shapes is built; those of heads leave their width open.
    family = models.find_family(name)
    inferred = family.MODEL(num_classes=3, **{**models.complete_fields(name), **family.infer(shapes), "image_size": 64})
    if "block_heads" not in fields:
        assert {path: leaf.shape for path, leaf in drawn(inferred).items()} == shapes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_share_of_the_cost_goes_and_hardly_more(name, share):
    module = build(name)
    leaves, whole = drawn(module), flops(module)
    scores = {units.name: importance(units, leaves) for units in module.removable()}
    fields = choose_widths(module.removable(), scores, lambda fields: flops(build(name, **fields)), share)
    left = flops(build(name, **fields)) / whole
    assert left <= 1 - share
    assert left > 1 - share - 0.1  # One head, or channel, of these small networks is so much.


def test_what_cannot_go_is_said():
    module = build(VIT)
    leaves = drawn(module)
    scores = {units.name: importance(units, leaves) for units in module.removable()}
    with pytest.raises(ValueError, match=r"^\d+% can go at most$"):
        choose_widths(module.removable(), scores, lambda fields: flops(build(VIT, **fields)), 0.99)


def test_a_model_without_such_units_says_so_by_having_none():
    assert build("resnext50_32x4d:stages=1-1,width=8").removable() == ()
    assert models.build("mobilenet_v3_small", num_classes=2).removable() == ()


@pytest.mark.parametrize("field", ["block_mlp=4-4", "block_heads=1-2-0", "block_mlp=1-2-3-4"])
def test_fields_that_do_not_fit_the_depth_are_refused(field):
    with pytest.raises(Exception, match="is not one number above 0 for each of 3 blocks"):
        models.build(f"{VIT},{field}", num_classes=2)
