"""The shape of the mesh, and along which of its axes arrays are cut."""

from functools import partial

import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.parallel.mesh import axes_of, mesh_shape
from jaxtl.parallel.partitioner import make_partitioner


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((64, 256), (None, "fsdp")),
        ((256, 64), ("fsdp",)),
        ((64, 64), (None, "fsdp")),  # Of equal ones the last.
        ((3, 3, 32, 64), (None, None, None, "fsdp")),
        ((4096,), ("fsdp",)),
        ((1001, 64), (None, "fsdp")),  # 1001 cannot be cut in four.
        ((1001, 63), ()),
        ((64, 63), ()),  # Below 4,096 elements.
        ((), ()),
    ],
)
def test_the_largest_dimension_that_can_be_is_cut(shape, axes):
    assert axes_of("params/a/kernel", shape, fsdp=4, rules={}) == axes
    assert axes_of("params/a/kernel", shape, fsdp=1, rules={}) == ()


def test_the_first_rule_that_fits_the_end_of_a_path_decides():
    rules = {"head/kernel": ["fsdp", None], "head/.*": (), "norm": ("data",)}
    at = partial(axes_of, shape=(64, 256), fsdp=4, rules=rules)
    assert at("params/head/kernel") == at("0/mu/head/kernel") == at("head/kernel") == ("fsdp", None)
    assert at("params/head/bias") == ()
    assert at("params/overhead/kernel") == at("params/norm/scale") == (None, "fsdp")


@pytest.mark.parametrize(
    ("mesh", "shape"),
    [({}, (8, 1)), ({"fsdp": 2}, (4, 2)), ({"data": 2, "fsdp": -1}, (2, 4)), ({"data": 8}, (8, 1))],
)
def test_the_mesh_takes_all_devices(mesh, shape):
    assert mesh_shape(mesh, 8) == shape


@pytest.mark.parametrize("mesh", [{"data": 3}, {"fsdp": 3}, {"data": 2, "fsdp": 2}, {"data": 16}, {"fsdp": 16}])
def test_a_mesh_that_does_not_fit_the_devices_is_an_error(mesh):
    with pytest.raises(UserError, match=r"must be the number of devices, 8"):
        mesh_shape(mesh, 8)


def test_what_cannot_be_cut_is_an_error_that_names_it():
    variables = {"params": {"head": {"kernel": np.zeros((7, 4)), "bias": np.zeros(4)}}}
    placed = partial(make_partitioner, mesh={"data": 1, "fsdp": 2})
    with pytest.raises(UserError, match=r"params/head/kernel \(7, 4\) along \('fsdp',\)"):
        placed(rules={"kernel": ("fsdp",)}).check(variables)
    with pytest.raises(UserError, match="params/head/bias"):
        placed(rules={"bias": (None, "fsdp")}).check(variables)
    with pytest.raises(UserError, match="'tail' fits no parameter"):
        placed(rules={"tail": ()}).check(variables)
    with pytest.raises(UserError, match="pmap"):
        make_partitioner("pmap", mesh={"data": 1, "fsdp": 2})
