import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.profiling.slices import CHIPS, Axis, find_slice


@pytest.mark.parametrize(
    ("name", "chips", "topology"),
    [
        ("v5e-1", 1, "1x1"),
        ("v5e-8", 8, "2x4"),
        ("v5e-256", 256, "16x16"),
        ("v5p-8", 4, "2x2x1"),  # Google's names count cores here.
        ("v4-512", 256, "4x8x8"),
        ("v6e-64", 64, "8x8"),
        ("h100-8", 8, "1x8"),
        ("h100-64", 64, "8x8"),
    ],
)
def test_a_name_gives_chips_and_shape(name, chips, topology):
    found = find_slice(name)
    assert (found.chips, found.topology) == (chips, topology)


@pytest.mark.parametrize("name", ["v9-8", "v5e", "v5e-7", "v5e-512", "v5p-1", "", "h100-12", "v5e--8"])
def test_a_slice_that_nobody_sells_is_an_error_that_lists_those_there_are(name):
    with pytest.raises(UserError, match="one of"):
        find_slice(name)


def test_every_chip_has_a_peak():
    assert {name: chip.peak / 1e12 for name, chip in CHIPS.items()} == {
        "v4": 275,
        "v5e": 197,
        "v5p": 459,
        "v6e": 918,
        "a100": 312,
        "h100": 989,
    }


def test_chips_are_counted_host_by_host():
    # As the library for TPUs numbers a 4 x 4 slice.
    assert find_slice("v5e-16").places().tolist() == [
        *([0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [3, 0], [2, 1], [3, 1]),
        *([0, 2], [1, 2], [0, 3], [1, 3], [2, 2], [3, 2], [2, 3], [3, 3]),
    ]
    assert find_slice("h100-16").places()[[0, 7, 8]].tolist() == [[0, 0], [0, 7], [1, 0]]


@pytest.mark.parametrize(
    ("name", "members", "axes"),
    [
        ("v5e-8", range(8), [Axis(2, 50e9), Axis(4, 50e9)]),  # No ring closes.
        ("v5e-256", range(256), [Axis(16, 100e9), Axis(16, 100e9)]),
        ("v5e-128", range(128), [Axis(8, 50e9), Axis(16, 100e9)]),
        ("v5e-256", range(8), [Axis(4, 50e9), Axis(2, 50e9)]),  # Two hosts side by side.
        ("v5e-256", range(0, 256, 4), [Axis(8, 50e9 * 8 / 15), Axis(8, 50e9 * 8 / 15)]),  # Links shared with others.
        ("v5p-128", range(64), [Axis(4, 200e9)] * 3),
        ("h100-64", range(64), [Axis(8, 50e9), Axis(8, 450e9)]),
        ("h100-64", range(8), [Axis(8, 450e9)]),
        ("h100-64", range(0, 64, 8), [Axis(8, 50e9)]),
        ("v5e-1", range(1), []),
    ],
)
def test_a_group_uses_the_links_between_its_chips(name, members, axes):
    found = find_slice(name).axes(np.asarray(members))
    assert [(axis.size, pytest.approx(axis.rate)) for axis in found] == [(axis.size, axis.rate) for axis in axes]


def test_the_smaller_slices_of_a_chip():
    assert [one.chips for one in find_slice("v5e-64").smaller()] == [1, 4, 8, 16, 32, 64]
