"""The model of time against figures worked out by hand."""

import numpy as np
import pytest

from jaxtl.profiling.hlo import Collective
from jaxtl.profiling.scaling_model import Program, Step, delay_seconds, estimate, link_seconds, shrunk
from jaxtl.profiling.slices import find_slice

EVERY = tuple(range(256))


def timed(kind, payload, name, members):
    place = find_slice(name)
    one = Collective(kind, payload, tuple(members), 1)
    axes = place.axes(np.asarray(one.members))
    torus = place.chip.wraps > 0
    return link_seconds(one, axes, torus=torus), delay_seconds(one, axes, torus=torus)


@pytest.mark.parametrize(
    ("kind", "name", "members", "links", "delay"),
    [
        # 1 GB; on a full pod all four links of 50 GB/s are used.
        ("all-reduce", "v5e-256", EVERY, 2 * 255 / 256 / 200, 32e-6),
        ("all-gather", "v5e-256", EVERY, 255 / 256 / 200, 16e-6),
        ("reduce-scatter", "v5e-8", range(8), 7 / 8 / 100, 3e-6),
        ("collective-permute", "v5e-8", (0, 1), 1 / 50, 1e-6),
        ("all-to-all", "v5e-256", EVERY, 4 * 255 / 256 / 200, 16e-6),
        # Within a node first: an eighth of it goes on to the seven others.
        ("all-reduce", "h100-64", range(64), 2 * 7 / 8 / 450 + 2 * 7 / 8 / 8 / 50, 12e-6),
        ("all-reduce", "h100-8", range(8), 2 * 7 / 8 / 450, 6e-6),
    ],
)
def test_a_gigabyte_takes_as_long_as_its_links(kind, name, members, links, delay):
    found = timed(kind, 1e9, name, members)
    assert found == (pytest.approx(links), pytest.approx(delay))


def program(**changes):
    mesh = {"data": 256, "fsdp": 1}
    gradients = Collective("all-reduce", 200e6, EVERY, 1, blocking=False)
    values = {
        "flop": 1.97e12,
        "hbm_bytes": 0.0,
        "state_bytes": 0.0,
        "peak_bytes": 0.0,
        "mesh": mesh,
        "collectives": [gradients],
    }
    return Program(**{**values, **changes})


def test_bounds_and_estimate():
    step = Step(compute=0.03, links=0.05, blocking=0.01, delays=0.001)
    assert step.hidden == pytest.approx(0.051)
    assert step.exposed == pytest.approx(0.081)
    # Two thirds of computing are there to hide what is not waited for.
    assert step.seconds == pytest.approx(0.03 + 0.01 + (0.04 - 0.02) + 0.001)


def test_scaling_of_a_step():
    rows = estimate(program(), find_slice("v5e-256"), share=0.5)
    assert [row["chips"] for row in rows] == [1, 4, 8, 16, 32, 64, 128, 256]
    first, last = rows[0], rows[-1]
    # 1.97 TFLOP at half of 197 TFLOP/s; 200 MB twice over four links of 50 GB/s.
    assert first["weak"]["step_seconds"] == pytest.approx(0.02)
    assert first["weak"]["efficiency"] == first["strong"]["efficiency"] == 1.0
    assert first["strong"]["step_seconds"] == pytest.approx(0.02 * 256)
    links = 2 * 255 / 256 * 0.2 / 200
    assert last["weak"]["link_seconds"] == pytest.approx(links)
    assert last["weak"]["efficiency"] == pytest.approx(0.02 / (0.02 + 32e-6))
    assert last["weak"]["efficiency_if_exposed"] == pytest.approx(0.02 / (0.02 + links + 32e-6))
    assert last["strong"]["efficiency"] == pytest.approx(last["weak"]["efficiency"])


def test_what_the_program_waits_for_hides_behind_nothing():
    waiting = program(collectives=[Collective("all-reduce", 200e6, EVERY, 1)])
    last = estimate(waiting, find_slice("v5e-256"), share=0.5)[-1]["weak"]
    assert last["exposed_seconds"] == last["link_seconds"]
    assert last["efficiency"] == last["efficiency_if_exposed"]


def test_memory_bounds_what_computes_little_and_the_state_is_moved_once_however_many_rows():
    slow = program(hbm_bytes=81.9e9, state_bytes=40.95e9)
    rows = estimate(slow, find_slice("v5e-256"), share=0.5)
    assert rows[-1]["weak"]["compute_seconds"] == pytest.approx(0.1)
    assert rows[0]["strong"]["compute_seconds"] == pytest.approx(0.05 + 256 * 0.05)


def test_16_bits_on_the_links_take_half_as_long():
    whole, half = (estimate(program(scale=scale), find_slice("v5e-256"), share=0.5)[-1] for scale in (1.0, 0.5))
    assert half["weak"]["link_seconds"] == pytest.approx(whole["weak"]["link_seconds"] / 2)


def test_groups_along_an_axis_of_the_mesh_stay_along_it():
    mesh = {"data": 32, "fsdp": 8}
    parts = [
        Collective("all-gather", 1e9, tuple(range(8)), 1),
        Collective("all-reduce", 1e9, tuple(range(0, 256, 8)), 1),
    ]
    gather = program(mesh=mesh, collectives=parts[:1])
    rows = {row["chips"]: row for row in estimate(gather, find_slice("v5e-256"), share=0.5)}
    # Eight chips of two hosts, whatever the slice; on four, sharding ends at four.
    assert rows[8]["weak"]["link_seconds"] == pytest.approx(7 / 8 / 100)
    assert rows[256]["weak"]["link_seconds"] == pytest.approx(7 / 8 / 100)
    assert rows[4]["mesh"] == {"data": 1, "fsdp": 4}
    reduce = program(mesh=mesh, collectives=parts[1:])
    rows = {row["chips"]: row for row in estimate(reduce, find_slice("v5e-256"), share=0.5)}
    assert rows[8]["weak"]["link_seconds"] == 0.0
    assert rows[256]["weak"]["link_seconds"] > 0.0


@pytest.mark.parametrize("members", [(255, 0), (3, 7), (5, 6, 7)])
def test_of_an_exchange_between_chips_that_a_smaller_slice_lacks_nothing_is_left(members):
    kind = "collective-permute" if len(members) == 2 else "all-gather"
    some = program(mesh={"data": 32, "fsdp": 8}, collectives=[Collective(kind, 1e9, members, 1)])
    rows = {row["chips"]: row for row in estimate(some, find_slice("v5e-256"), share=0.5)}
    assert rows[1]["weak"]["link_seconds"] == 0.0
    assert rows[256]["weak"]["link_seconds"] > 0.0


def test_a_smaller_mesh_gives_up_data_parallelism_first():
    assert shrunk({"data": 32, "fsdp": 8}, 256, 64) == {"data": 8, "fsdp": 8}
    assert shrunk({"data": 32, "fsdp": 8}, 256, 4) == {"data": 1, "fsdp": 4}
    assert shrunk({"data": 16, "fsdp": 3}, 48, 4) is None
