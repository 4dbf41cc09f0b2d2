"""Named sets of values for the fields of `Augmentation`."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from jaxtl.data.augment.options import Augmentation, not_among

# Where crops are those of the defaults, they stand here, too: a preset keeps its meaning when a default changes.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"crop": "none", "flip": 0.0},
    "small_images": {"crop": "pad_crop", "color_jitter": 0.1},
    "light": {"scale": (0.25, 1.0), "color_jitter": 0.1},
    "medium": {"scale": (0.25, 1.0), "rotate": 10.0, "color_jitter": 0.2, "erase": 0.1},
    # The policy brings rotations and colours of its own.
    "strong": {"scale": (0.2, 1.0), "policy": "trivialaugment", "erase": 0.25},
}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Augmentation)}
"""The default of each field."""

AUTO = "auto"
"""A preset that a rule chooses; it may be any of them."""

_EXCEPT = " except "


def with_preset(preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of all fields, with those of a preset where they are at their defaults.

    >>> found = with_preset("medium except erase", {**DEFAULTS, "rotate": 25.0})
    >>> found["scale"], found["rotate"], found["erase"]
    ((0.25, 1.0), 25.0, 0.0)

    Args:
      preset: "", one of `PRESETS`, or "medium except rotate,erase": the fields that it leaves as they are.
      values: of each field of `Augmentation`; one that is not its default stays.
    """
    chosen = {name: value for name, value in _chosen(preset).items() if is_default(name, values[name])}
    return {**values, **chosen}


def except_for(preset: str, names: Iterable[str]) -> str:
    """Returns the preset that leaves more fields as they are, of those that it sets."""
    name, _, left = preset.partition(_EXCEPT)
    names = set(names) & _chosen(preset).keys()
    if not names:
        return preset
    return f"{name}{_EXCEPT}{','.join([*left.split(',')] * bool(left) + sorted(names))}"


def exceptions(preset: str) -> list[str]:
    """Returns the fields that a preset leaves as they are.

    >>> exceptions("medium except rotate,erase"), exceptions("medium")
    (['rotate', 'erase'], [])
    """
    left = preset.partition(_EXCEPT)[2]
    return left.split(",") if left else []


def is_auto(preset: str) -> bool:
    """Tells whether a rule is to choose the preset."""
    return preset.partition(_EXCEPT)[0] == AUTO


def in_place_of_auto(preset: str, chosen: str) -> str:
    """Returns the preset that a rule chose, with the exceptions of "auto" that it sets.

    >>> in_place_of_auto("auto except rotate,erase", "medium")
    'medium except erase,rotate'
    """
    return except_for(chosen, exceptions(preset))


def preset_problems(preset: str) -> list[str]:
    """Returns one line for each problem with the text of a preset, in the form of `options.problems`."""
    name, _, left = preset.partition(_EXCEPT)
    if name and name not in (AUTO, *PRESETS):
        return [not_among("preset", name, ("", AUTO, *PRESETS))]
    known = _fields(name)
    strange = [field for field in left.split(",") if left and field not in known]
    sets = f"it sets: {', '.join(known) or 'nothing'}."
    return [f"preset is {preset!r}, but {name!r} does not set {field!r}; {sets}" for field in strange]


def in_words(preset: str, values: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Says what a preset sets, and what stays as written: one line.

    Args:
      preset: as `with_preset` takes it.
      values: of all fields, as written.
      now: of all fields, with those of the preset, as `with_preset` gives them or gave them once.
    """
    name, chosen = preset.partition(_EXCEPT)[0], _chosen(preset)
    stay = [field for field in PRESETS[name] if field not in chosen or not is_default(field, values[field])]
    # A preset that was written out may be that of an earlier version, which set other fields.
    set_here = {f for f in chosen if f not in stay and _plain(now[f]) == _plain(chosen[f])}
    told = [f for f in {**chosen, **DEFAULTS} if f in set_here or _plain(now[f]) != _plain(values[f])]
    text = f"{name} sets {_listed(told, now) or 'nothing'}"
    return f"{text}; as written stay {_listed(stay, now)}" if stay else text


def is_default(name: str, value: Any) -> bool:
    """Tells whether a value is the default of a field; a config may hold lists for tuples."""
    return (tuple(value) if isinstance(value, list) else value) == DEFAULTS[name]


def _chosen(preset: str) -> dict[str, Any]:
    name, _, left = preset.partition(_EXCEPT)
    return {field: value for field, value in _fields(name).items() if field not in left.split(",")}


def _fields(name: str) -> dict[str, Any]:
    """Returns what a preset sets; "auto" any of what presets do, to values that are not known yet."""
    if name == AUTO:
        return {field: None for fields in PRESETS.values() for field in fields}
    return PRESETS.get(name, {})


def _listed(names: Iterable[str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(values[name])}" for name in names)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " to ".join(f"{number:g}" for number in value)
    return (value or "''") if isinstance(value, str) else f"{value:g}"
