"""Slices of accelerators that can be rented: how many chips in which shape, and how fast their links are."""

import math
from dataclasses import dataclass

import numpy as np

from jaxtl.errors import UserError
from jaxtl.profiling.chips import peak_tflops

# What a collective waits for at each neighbour it passes: a round figure for such links, which no maker publishes.
HOP_SECONDS = 1e-6
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    *((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    *((8, 8, 16), (8, 16, 16), (16, 16, 16)),
)
_NODES = ((1, 1), (1, 2), (1, 4), *((2**k, 8) for k in range(8)))


@dataclass(frozen=True)
class Chip:
    """What a maker publishes of a chip and of the links between such chips.

    Attributes:
      kind: as JAX names it.
      hbm_gib: memory.
      hbm: bytes/s of that memory.
      links: bytes/s that one link carries in one direction, for each kind of axis: a torus has one kind; nodes have
        what lies between nodes and what lies within.
      shapes: of the slices, from the smallest; a torus along x, y and z, or (nodes, chips of a node).
      wraps: length from which on an axis of the torus is closed to a ring; 0: these are nodes, with switches.
      cores: that the maker's names count for each chip.
    """

    kind: str
    hbm_gib: float
    hbm: float
    links: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...]
    wraps: int
    cores: int = 1

    @property
    def peak(self) -> float:
        """FLOP/s in bfloat16."""
        return 1e12 * (peak_tflops(self.kind) or math.nan)


# Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" give peaks, memory, ports and the bandwidth of a chip's
# links in both directions: 400 GB/s over 4 ports for v5e is 50 GB/s a link and direction. NVIDIA's data sheets of
# DGX H100 and A100 give NVLink in both directions (900 and 600 GB/s a GPU) and a port of 400 and 200 Gbit/s for each.
CHIPS = {
    "v4": Chip("TPU v4", 32, 1200e9, (50e9,), _CUBES, wraps=4, cores=2),
    "v5e": Chip("TPU v5e", 16, 819e9, (50e9,), _FLAT, wraps=16),
    "v5p": Chip("TPU v5p", 95, 2765e9, (100e9,), _CUBES, wraps=4, cores=2),
    "v6e": Chip("TPU v6e", 32, 1638e9, (100e9,), _FLAT, wraps=16),
    "a100": Chip("NVIDIA A100", 80, 2039e9, (25e9, 300e9), _NODES, wraps=0),
    "h100": Chip("NVIDIA H100", 80, 3350e9, (50e9, 450e9), _NODES, wraps=0),
}


@dataclass(frozen=True)
class Axis:
    """What a group of chips uses along one axis of a slice: so many of them, and bytes/s each way from each."""

    size: int
    rate: float


@dataclass(frozen=True)
class Slice:
    """Some chips of a kind, in a shape."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Their number."""
        return math.prod(self.shape)

    @property
    def topology(self) -> str:
        """The shape, as 4x8."""
        return "x".join(map(str, self.shape))

    def places(self) -> np.ndarray:
        """Returns where each chip lies, [chips, axes], in the order of their ids."""
        if not self.chip.wraps:
            return np.indices(self.shape).reshape(len(self.shape), -1).T
        # A TPU host holds 2 x 2 of them; hosts, and chips within one, are counted along x first.
        blocks = tuple(min(2, size) if axis < 2 else 1 for axis, size in enumerate(self.shape))
        hosts = np.indices([size // block for size, block in zip(self.shape, blocks, strict=True)][::-1])
        within = np.indices(blocks[::-1])
        hosts, within = (x.reshape(len(blocks), -1).T[:, ::-1] for x in (hosts, within))
        return (hosts[:, None] * blocks + within[None]).reshape(-1, len(blocks))

    def axes(self, members: np.ndarray) -> list[Axis]:
        """Returns what a group of chips, given by their ids, uses along each axis that it extends over."""
        places = self.places()[members]
        found = []
        for axis, length in enumerate(self.shape):
            values = np.unique(places[:, axis])
            if len(values) == 1:
                continue
            link = self.chip.links[min(axis, len(self.chip.links) - 1)]
            if self.chip.wraps:
                # A closed ring sends both ways; groups that lie between one another share the links.
                ring = len(values) == length and length % self.chip.wraps == 0
                link *= (2 if ring else 1) * len(values) / int(values[-1] - values[0] + 1)
            found.append(Axis(len(values), link))
        return found

    def smaller(self) -> list["Slice"]:
        """Returns the slices of these chips up to this one."""
        return [Slice(self.chip, shape) for shape in self.chip.shapes if math.prod(shape) <= self.chips]


def find_slice(name: str) -> Slice:
    """Returns the slice of a name such as "v5e-256": the chip, and their number (v4 and v5p: of their cores).

    Raises:
      UserError: there is no such chip or slice.
    """
    kind, _, number = name.partition("-")
    if kind not in CHIPS:
        raise UserError(f"--plan={name}: there is no chip {kind!r}; give one of {', '.join(CHIPS)}, as in v5e-256.")
    chip = CHIPS[kind]
    sizes = {chip.cores * math.prod(shape): shape for shape in chip.shapes}
    if not number.isdigit() or int(number) not in sizes:
        counted = " (cores, two a chip)" if chip.cores == 2 else ""
        raise UserError(f"--plan={name}: {kind} comes as {kind}-N with N one of {', '.join(map(str, sizes))}{counted}.")
    return Slice(chip, sizes[int(number)])
