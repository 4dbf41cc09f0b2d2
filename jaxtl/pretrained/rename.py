"""The rename engine: reads the tables of the model files from source keys to target keys, and back."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from jaxtl.models import families
from jaxtl.models.base import Family
from jaxtl.models.key_mapping import KeyMapping, Rows
from jaxtl.pretrained.layouts import LEAVES, Transform

_PARTS = {"query": 0, "key": 1, "value": 2}


@dataclass(frozen=True)
class Part:
    """A source array that fills a leaf, or one of the equal parts of its last axis (queries, keys, values)."""

    source: str
    transform: Transform
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """Which source arrays fill which leaf.

    Attributes:
      parts: for each of our paths, such as "params/block0/attn/qkv/kernel", its parts in order.
      unused: source arrays that the convention itself leaves out.
      unknown: source arrays that no rule names.
    """

    parts: dict[str, tuple[Part, ...]]
    unused: tuple[str, ...]
    unknown: tuple[str, ...]

    def shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Gives the shapes that our leaves get, from the shapes of the source arrays."""
        return {path: _joined_shape(parts, shapes) for path, parts in self.parts.items()}


def _joined_shape(parts: tuple[Part, ...], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    try:
        single = [part.transform.forward(np.broadcast_to(np.False_, shapes[part.source])).shape for part in parts]
    except (ValueError, IndexError):
        # Such as a dense layer over a grid of another side.
        return ()
    if len(parts) != parts[0].count:
        # An incomplete set of queries, keys and values has no shape that could fit.
        return ()
    return single[0] if len(single) == 1 else (*single[0][:-1], sum(shape[-1] for shape in single))


def fill(parts: tuple[Part, ...], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Reads the arrays of one leaf and brings them into our layout."""
    values = [part.transform.forward(arrays[part.source]) for part in parts]
    return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


_PLACEHOLDER = re.compile(r"\{(\w)([+-]\d+)?\}")


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Compiles a template; a placeholder that comes again must be the same number."""
    text, position, seen = "", 0, set()
    for match in _PLACEHOLDER.finditer(template):
        name = match[1]
        text += re.escape(template[position : match.start()])
        text += f"(?P={name})" if name in seen else rf"(?P<{name}>\d+)"
        seen.add(name)
        position = match.end()
    return re.compile(text + re.escape(template[position:]))


def _numbers(template: str, text: str) -> dict[str, int] | None:
    """Reads the numbers out of a path; None if the path is not of that template."""
    match = _pattern(template).fullmatch(text)
    if match is None:
        return None
    offsets = {name: int(offset or 0) for name, offset in _PLACEHOLDER.findall(template)}
    return {name: int(value) - offsets[name] for name, value in match.groupdict().items()}


def _write(template: str, numbers: Mapping[str, int]) -> str:
    return _PLACEHOLDER.sub(lambda match: str(numbers[match[1]] + int(match[2] or 0)), template)


Rule = tuple[str, tuple[tuple[str, Transform, int, int], ...]]
"""A source, and the leaves that it fills: (target, transform, part, parts)."""


# By value: each opened Keras file may have a KeyMapping of its own, most of them with the same rows.
@cache
def _rules(layout: str, rows: Rows) -> tuple[Rule, ...]:
    """Writes out each row of a table as rules for its arrays."""
    rules = []
    for source, target, kind in rows:
        kind, _, part = kind.partition(" ")
        leaves = LEAVES[layout][kind]
        for suffix in dict.fromkeys(suffix for suffix, _, _ in leaves):
            filled = [(path.format(target), transform) for other, path, transform in leaves if other == suffix]
            numbered = tuple((path, transform, _PARTS.get(part, 0), 3 if part else 1) for path, transform in filled)
            rules.append((source + suffix, numbered))
    return tuple(rules)


_DIGITS = re.compile(r"\d+")


@cache
def _index(layout: str, rows: Rows) -> dict[str, list[Rule]]:
    """Sorts the rules by their source with its numbers left open, so that few are tried for each array."""
    index: dict[str, list[Rule]] = {}
    for rule in _rules(layout, rows):
        index.setdefault(_DIGITS.sub("#", _PLACEHOLDER.sub("0", rule[0])), []).append(rule)
    return index


def plan(names: Iterable[str], key_mapping: KeyMapping) -> Plan:
    """Finds for each source array the leaves that it fills."""
    names = tuple(names)
    prefix, index = _prefix(names, key_mapping), _index(key_mapping.layout, key_mapping.rows)
    parts: dict[str, list[Part]] = {}
    unused: list[str] = []
    unknown: list[str] = []
    for name in names:
        short = name.removeprefix(prefix)
        for source, leaves in index.get(_DIGITS.sub("#", short), ()):
            numbers = _numbers(source, short)
            if numbers is not None:
                for target, transform, part, count in leaves:
                    parts.setdefault(_write(target, numbers), []).append(Part(name, transform, part, count))
                break
        else:
            left_out = any(re.fullmatch(pattern, short) for pattern in key_mapping.unused)
            (unused if left_out else unknown).append(name)
    ordered = {path: tuple(sorted(found, key=lambda part: part.index)) for path, found in parts.items()}
    return Plan(ordered, tuple(unused), tuple(unknown))


def _prefix(names: Iterable[str], key_mapping: KeyMapping) -> str:
    names = tuple(names)
    # The empty one fits always, so it is tried last.
    prefixes = sorted(key_mapping.prefixes, key=len, reverse=True)
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), "")


def recognise(names: Iterable[str]) -> tuple[Family, KeyMapping] | None:
    """Finds the family and the convention whose table names the most of these arrays; None if none names any."""
    names = tuple(names)
    candidates = [(family, key_mapping) for family in families() for key_mapping in family.KEY_MAPPINGS]
    # Of two tables that name all of them, the smaller one is of the simpler family.
    unknown, _, best = min(
        (len(plan(names, key_mapping).unknown), len(key_mapping.rows), index)
        for index, (_, key_mapping) in enumerate(candidates)
    )
    return candidates[best] if unknown < len(names) else None


def to_source_keys(leaves: Mapping[str, np.ndarray], key_mapping: KeyMapping) -> dict[str, np.ndarray]:
    """Writes our leaves, by path, in the names and the layout of a convention; the tables are read backwards.

    Raises:
      ValueError: lists the leaves that the convention has no name for.
    """
    written: dict[str, np.ndarray] = {}
    nameless = []
    rules = _rules(key_mapping.layout, key_mapping.rows)
    for path, leaf in leaves.items():
        found = [
            (source, numbers, transform, index, count)
            for source, filled in rules
            for target, transform, index, count in filled
            if (numbers := _numbers(target, path)) is not None
        ]
        if not found:
            nameless.append(path)
            continue
        wanted = found[0][4]
        for source, numbers, transform, index, count in found[:wanted]:
            part = np.split(leaf, count, axis=-1)[index]
            name = _write(source, numbers)
            # The head stands beside the backbone, which is what the prefix names.
            name = name if path.split("/")[1].startswith("head") else key_mapping.prefixes[0] + name
            written[name] = np.ascontiguousarray(transform.backward(part))
    if nameless:
        raise ValueError(f"the {key_mapping.name} convention has no name for {', '.join(nameless)}")
    return written
