"""What a compiled program sends between devices, and what it moves to and from memory, read off its text."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLS = re.compile(r"(calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_IOTA = r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?"
# The compiler for TPUs writes a reduce-scatter as a fusion of this name.
_SCATTER = "all-reduce-scatter"
# These name arrays, and touch none.
_NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "after-all")


@dataclass(frozen=True)
class Collective:
    """A collective between devices, by each group of them at the same time.

    Attributes:
      kind: one of KINDS.
      payload: bytes of the array before it is cut, or after it is put together.
      members: the devices of the first group.
      times: that it happens in a step.
      blocking: whether the program does nothing else meanwhile; what another backend makes of it may differ.
    """

    kind: str
    payload: float
    members: tuple[int, ...]
    times: int
    blocking: bool = True

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by the algorithms that send the least."""
        others = (len(self.members) - 1) / len(self.members)
        share = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)
        return self.times * share * self.payload


def collectives(text: str, devices: int) -> list[Collective]:
    """Returns the collectives of a compiled program that runs on `devices` devices; those of one device are left out.

    Args:
      text: of the module, as `compiled.as_text()` gives it.
      devices: that it was compiled for.

    Raises:
      ValueError: it holds a list of groups in a form that is not known.
    """
    bodies, entry = _computations(text)
    found: list[Collective] = []
    seen: set[tuple[str, ...]] = set()
    for name, times in _times(bodies, entry).items():
        for line in bodies[name]:
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            # One that goes on while other work is done stands in each of the computations that it goes along with.
            chain = tuple(re.findall(r'channel_id=\d+|chain_id="\d+"', line)) if "chain_id=" in line else ()
            members = _first_group(line, devices)
            if chain in seen or len(members) == 1:
                continue
            seen |= {chain} - {()}
            kind, size = match[2], len(members)
            payload = _bytes(match[1])
            if match[3] and kind in ("all-gather", "collective-permute"):  # Its type holds what goes in, too.
                payload *= size / (size + 1) if kind == "all-gather" else 1 / 2
            elif kind == "reduce-scatter":
                payload *= size
            elif kind == "all-reduce" and name.startswith(_SCATTER):
                kind = "reduce-scatter"
            found.append(Collective(kind, payload, members, times, blocking=not chain and not match[3]))
    return found


def memory_bytes(text: str) -> float:
    """Returns the bytes that a program moves to and from main memory, as its compiler placed the arrays.

    The compiler for TPUs marks what lies in the chip's fast memory, S(1), and copies to and from it. An array that an
    operation reads a part of counts as a whole, so it may be less.

    Args:
      text: of the module, as `compiled.as_text()` gives it.
    """
    bodies, entry = _computations(text)
    total = 0.0
    for name, times in _times(bodies, entry, within=False).items():
        types: dict[str, str] = {}
        for line in bodies[name]:
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            result, shapes, how, rest = match.groups()
            types[result] = shapes
            if how in _NAMES or how.endswith("-done"):
                continue
            if how in ("copy-start", "slice-start", "dynamic-slice-start"):
                # (source, target, a flag): as much is read as is written, and one of them is fast memory.
                total += times * _array_bytes(_SHAPE.findall(shapes)[1])
                continue
            arguments = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
            touched = "".join([shapes, *(types.get(argument, "") for argument in arguments)])
            total += times * sum(_array_bytes(one) for one in _SHAPE.findall(touched) if "S(" not in one[2])
    return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns name -> lines of each computation, and the name of the one that runs."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = None if line.startswith(" ") else _HEADER.match(line)
        if header:
            lines = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str, *, within: bool = True) -> dict[str, int]:
    """Returns how often each computation runs; loops of a length that the compiler does not know count once.

    Args:
      bodies: lines of each.
      entry: the one that runs.
      within: whether to look within operations, too, that are one for the device.
    """
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in bodies[name]:
            trips = _TRIPS.search(line)
            for how, callee, branches in _CALLS.findall(line):
                if not within and how in ("calls", "to_apply"):
                    continue
                for other in [callee] if callee else re.findall(r"[\w.\-]+", branches):
                    if other in bodies:
                        visit(other, count * (int(trips[1]) if trips and how == "body" else 1))

    visit(entry, 1)
    return times


def _bytes(shapes: str) -> float:
    return sum(map(_array_bytes, _SHAPE.findall(shapes)))


def _array_bytes(shape: tuple[str, str, str]) -> float:
    kind, dimensions, _ = shape
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return bits / 8 * math.prod(map(int, filter(None, dimensions.split(","))))


def _first_group(line: str, devices: int) -> tuple[int, ...]:
    """Returns the devices of the first group, from any of the forms that the compiler writes."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line)
    if pairs:
        return int(pairs[1]), int(pairs[2])
    text = line.partition("replica_groups=")[2]
    if text.startswith("{}") or not text:
        return tuple(range(devices))
    if text.startswith("{{"):
        return tuple(map(int, text[2 : text.index("}")].split(",")))
    if text.startswith("["):
        return tuple(_iota(text)[0])
    mesh = re.match(rf"mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{([^}}]*)\}}", text)
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1])) if mesh else {}
    axes = re.findall(r"'(\w+)'(?=,|$)", mesh[5]) if mesh else []
    if not mesh or re.sub(r"[', ]", "", mesh[5]) != "".join(axes):
        raise ValueError(f"unknown form of groups: {text[:200]}")
    shape = [int(size) for size in sizes.values()]
    ids = np.arange(math.prod(shape))
    if mesh[2]:
        ids = _reorder(mesh[2], mesh[3], mesh[4]).reshape(-1)
    places = [list(sizes).index(axis) for axis in axes]
    grid = np.moveaxis(ids.reshape(shape), places, range(-len(places), 0))
    return tuple(int(i) for i in grid.reshape(-1, math.prod(shape[place] for place in places))[0])


def _iota(text: str) -> np.ndarray:
    """Returns the groups of "[4,2]<=[2,4]T(1,0)", [groups, members]."""
    match = re.match(_IOTA, text)
    if not match or not match[2]:
        raise ValueError(f"unknown form of groups: {text[:200]}")
    return _reorder(match[2], match[2], match[3]).reshape(_numbers(match[1]))


def _reorder(shape: str, source: str, order: str) -> np.ndarray:
    ids = np.arange(math.prod(_numbers(source or shape))).reshape(_numbers(source or shape))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
