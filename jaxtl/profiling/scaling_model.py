"""How long a step would take on a slice of chips, and how well it scales: from a compiled program and stated speeds.

A step computes and communicates. Computing takes as long as the slower of two: the FLOP at a stated share of the
chip's peak, and the bytes that the program moves at the memory's full speed. A collective takes the bytes that the best
known algorithms send, at the stated speed of the links, and a delay for every neighbour that it passes. Collectives
that the program does not wait for go on during the backward pass, two thirds of the computing. Compilers and their
options differ in how many those are, so there are two bounds beside the estimate: everything hidden, and nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.parallel.mesh import AXIS, FSDP
from jaxtl.profiling.hlo import Collective
from jaxtl.profiling.slices import HOP_SECONDS, Axis, Slice

BACKWARD = 2 / 3


@dataclass(frozen=True)
class Program:
    """A step compiled for the chips of a slice: what one chip does in it.

    Attributes:
      flop: of one chip, for its matrix products and convolutions.
      hbm_bytes: bytes to and from memory; 0 where the compiler of another device counted.
      state_bytes: those of them for parameters and moments, whatever the batch.
      peak_bytes: bytes of memory that the step needs.
      mesh: number of chips along each axis.
      collectives: its collectives.
      scale: bytes on the links by bytes in the program: 1/2 where that one computes in wider numbers.
    """

    flop: float
    hbm_bytes: float
    state_bytes: float
    peak_bytes: float
    mesh: Mapping[str, int]
    collectives: Sequence[Collective]
    scale: float = 1.0


@dataclass(frozen=True)
class Step:
    """Seconds of a step: computing, bytes on the links, those of them that are waited for, delays; and the sum."""

    compute: float
    links: float
    blocking: float
    delays: float

    @property
    def hidden(self) -> float:
        """All bytes travel while something is computed."""
        return max(self.compute, self.links + self.delays)

    @property
    def exposed(self) -> float:
        """Nothing is computed meanwhile."""
        return self.compute + self.links + self.delays

    @property
    def seconds(self) -> float:
        """The estimate: what the program does not wait for travels during the backward pass."""
        return (
            self.compute + self.blocking + max(0.0, self.links - self.blocking - BACKWARD * self.compute) + self.delays
        )


def estimate(program: Program, target: Slice, *, share: float) -> list[dict[str, Any]]:
    """Returns a row for each slice of these chips up to the target.

    Rows with a mesh that does not fit are left out. "weak" keeps the rows of the batch a chip as they are in the
    program; "strong" keeps the whole batch. Efficiency is by one chip with the same rows, or the same batch.

    Args:
      program: compiled for the target.
      target: the largest slice.
      share: of the peak that computing reaches.
    """
    found = []
    for place in target.smaller():
        mesh = shrunk(program.mesh, target.chips, place.chips)
        if mesh is None:
            continue
        weak = step(program, place, mesh, share=share)
        more = target.chips / place.chips
        strong = step(program, place, mesh, share=share, batch=more)
        alone = {batch: compute_seconds(program, place, share=share, batch=batch) for batch in (1.0, target.chips)}
        found.append(
            {
                "chips": place.chips,
                "topology": place.topology,
                "mesh": mesh,
                "weak": _seconds(weak, alone[1.0]),
                "strong": _seconds(strong, alone[target.chips] / place.chips),
            }
        )
    return found


def _seconds(timed: Step, ideal: float) -> dict[str, float]:
    return {
        "step_seconds": timed.seconds,
        "compute_seconds": timed.compute,
        "link_seconds": timed.links,
        "exposed_seconds": timed.blocking,
        "delay_seconds": timed.delays,
        "efficiency": ideal / timed.seconds,
        "efficiency_if_hidden": ideal / timed.hidden,
        "efficiency_if_exposed": ideal / timed.exposed,
    }


def shrunk(mesh: Mapping[str, int], chips: int, fewer: int) -> dict[str, int] | None:
    """Returns the mesh for fewer chips: less data parallelism, then less sharding; None where none fits."""
    fsdp = min(mesh[FSDP], fewer)
    return None if fewer % fsdp or chips % fewer else {AXIS: fewer // fsdp, FSDP: fsdp}


def compute_seconds(program: Program, place: Slice, *, share: float, batch: float = 1.0) -> float:
    """Returns how long a chip computes, with `batch` times the rows that the program has for it."""
    chip = place.chip
    hbm_bytes = min(program.state_bytes, program.hbm_bytes) + batch * max(0.0, program.hbm_bytes - program.state_bytes)
    return max(batch * program.flop / (share * chip.peak), hbm_bytes / chip.hbm)


def step(program: Program, place: Slice, mesh: Mapping[str, int], *, share: float, batch: float = 1.0) -> Step:
    """Returns the seconds of a step on a slice, with `batch` times the rows a chip."""
    links = blocking = delays = 0.0
    for one in program.collectives:
        axes = place.axes(np.asarray(_members(one, program.mesh, mesh)))
        seconds = one.times * program.scale * link_seconds(one, axes, torus=place.chip.wraps > 0)
        links += seconds
        blocking += seconds if one.blocking else 0.0
        delays += one.times * delay_seconds(one, axes, torus=place.chip.wraps > 0)
    return Step(compute_seconds(program, place, share=share, batch=batch), links, blocking, delays)


def _members(one: Collective, mesh: Mapping[str, int], other: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the group of a collective on another mesh: along the same axes, or one chip where none is left of it."""
    fsdp, size, chips = mesh[FSDP], len(one.members), other[AXIS] * other[FSDP]
    if one.kind == "collective-permute":
        return one.members if max(one.members) < chips else (0,)
    if size == mesh[AXIS] * fsdp:
        return tuple(range(chips))
    if size == fsdp:
        return tuple(range(other[FSDP]))
    if size == mesh[AXIS]:
        return tuple(range(0, chips, other[FSDP]))
    return tuple(member for member in one.members if member < chips) or (0,)


def link_seconds(one: Collective, axes: Sequence[Axis], *, torus: bool) -> float:
    """Returns how long the bytes of one collective are on the links.

    On a torus the array is cut so that all axes are used at once. Between nodes the collective is done within each node
    first, so that only a share of it travels on.
    """
    if not axes:
        return 0.0
    twice = 2 if one.kind == "all-reduce" else 1
    if one.kind == "collective-permute":
        return one.payload / min(axis.rate for axis in axes)
    if torus:
        chips = math.prod(axis.size for axis in axes)
        # What goes from each to each passes a quarter of a ring, on average.
        way = max(1.0, max(axis.size for axis in axes) / 4) if one.kind == "all-to-all" else 1.0
        return twice * way * (chips - 1) / chips * one.payload / sum(axis.rate for axis in axes)
    seconds, payload = 0.0, one.payload
    for axis in reversed(axes):
        seconds += twice * (axis.size - 1) / axis.size * payload / axis.rate
        payload /= 1 if one.kind == "all-to-all" else axis.size
    return seconds


def delay_seconds(one: Collective, axes: Sequence[Axis], *, torus: bool) -> float:
    """Returns how long the neighbours that one collective passes delay it, whatever its size."""
    twice = 2 if one.kind == "all-reduce" else 1
    # To both sides of a ring, or through a switch by halves.
    hops = sum(axis.size / 2 if torus else math.log2(axis.size) for axis in axes)
    return twice * HOP_SECONDS * math.ceil(hops)
