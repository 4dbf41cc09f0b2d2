"""What each key of a config means: read from the comments beside its default, the only place where that stands."""

import io
import re
import shutil
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any

from jaxtl.errors import nearest

_LAYOUT = (tokenize.INDENT, tokenize.DEDENT, tokenize.NL)
# Columns of the value, where it is no longer, and the least that is left for the meaning on a narrow screen.
_VALUE, _LEAST = 18, 40


def meanings(source: str) -> dict[str, str]:
    """Reads what a program says of `c.train.seed = 0`: the comment lines right above it, then the one on its line.

    >>> meanings("# Of what is drawn.\\nc.train.seed = 0  # Any number.\\n\\nc.train = {}\\n")
    {'train.seed': 'Of what is drawn. Any number.', 'train': ''}
    """
    found: dict[str, str] = {}
    above: list[str] = []
    beside: list[str] = []
    words: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (beside if words else above).append(token.string.lstrip("# "))
        elif token.type == tokenize.NEWLINE:
            target = "".join(words).partition("=")[0]
            if target.startswith("c."):
                found[target.removeprefix("c.")] = " ".join([*above, *beside])
            above, beside, words = [], [], []
        elif token.type not in _LAYOUT:
            words.append(token.string)
        elif not token.line.strip():
            above = []  # A blank line parts a comment from what follows it.
    return found


def unknown(key: str, defaults: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """Says that there is no such key, and what was meant, as far as that can be told."""
    section, _, last = key.rpartition(".")
    of = {name: name.partition(".")[2] for name in defaults}
    own = {name: word for name, word in of.items() if name.startswith(f"{section}.")}
    # Its own name in another section is nearer than any other name.
    same = next((name for name, word in of.items() if word == last), "")
    for names in (own, of):
        word = nearest(last, names.values())
        if meant := same or next((name for name, other in names.items() if other == word), ""):
            return f"unknown key config.{key}; did you mean config.{meant}?"
    if hints := _mentioning(last, defaults, known):
        listed = "; ".join(f"config.{hint} ({known[hint]})" for hint in hints)
        return f"unknown key config.{key}; there is {listed}"
    if own:
        return f"unknown key config.{key}; the keys of {section} are: {', '.join(own.values())}."
    sections = dict.fromkeys(name.partition(".")[0] for name in defaults)
    return f"unknown key config.{key}; the sections are: {', '.join(sections)}. `jaxtl config` lists all keys."


def _mentioning(word: str, defaults: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """Returns the keys whose meaning has a word in it, such as brightness: what it is called here."""
    hits = [key for key in defaults if word.lower() in re.findall(r"\w+", known[key].lower())]
    return hits if len(word) > 3 and len(hits) <= 2 else []


def select(wanted: str, defaults: Mapping[str, Any]) -> list[str]:
    """Returns the keys of that name, of that section or last name, or that begin so; all for ""."""
    tests = (
        lambda key: key == wanted,
        lambda key: wanted in (key.split(".")[0], key.split(".")[-1]),
        lambda key: key.startswith(wanted),
    )
    return next((found for test in tests if (found := [key for key in defaults if test(key)])), [])


def table(
    keys: list[str], defaults: Mapping[str, Any], known: Mapping[str, str], values: Mapping[str, Any] | None = None
) -> str:
    """Returns a line or more for each key: its default, or its value in a config, and what it means.

    Args:
      keys: those to show.
      defaults: of every key.
      known: what keys and sections mean.
      values: of every key in a config; where one is no default, the default stands beside it.
    """
    width = max(len(key) for key in keys) + 2
    start = width + _VALUE + 2
    room = max(shutil.get_terminal_size((120, 24)).columns - start, _LEAST)
    lines: list[str] = []
    section = ""
    for key in keys:
        if key.split(".")[0] != section:
            section = key.split(".")[0]
            lines += [*([""] if lines else []), f"{section}: {known[section]}"]
        value = defaults[key] if values is None else values[key]
        changed = _plain(value) != _plain(defaults[key])
        text = (f"(default {defaults[key]!r}) " if changed else "") + known[key]
        first, *rest = textwrap.wrap(text, room, break_long_words=False)
        begin = f"{key:<{width}}{value!r:<{_VALUE}}"
        # A dict that is longer than its column has a line of its own.
        lines += [f"{begin}  {first}"] if len(begin) <= start - 2 else [begin, " " * start + first]
        lines += [" " * start + line for line in rest]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
