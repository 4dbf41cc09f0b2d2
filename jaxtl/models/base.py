"""The ordered groups of a model, input to head: the one table behind freezing, rates, caching and reports."""

Groups = tuple[tuple[str, str], ...]
"""Pairs (name, pattern); the path "a/b/c" is in a group if `re.match(rf"(?:{pattern})(?:/|$)", path)`."""


def span(groups: Groups, start: str | None, stop: str | None) -> tuple[str, ...]:
    """Names the groups from `start` to `stop`, both included; None stands for the first and the last.

    Raises:
      ValueError: a name is no group of the model, or `stop` comes before `start`.
    """
    names = tuple(name for name, _ in groups)
    for given in (start, stop):
        if given is not None and given not in names:
            raise ValueError(f"no group {given!r}; the model has {', '.join(names)}")
    first = 0 if start is None else names.index(start)
    last = len(names) - 1 if stop is None else names.index(stop)
    if last < first:
        raise ValueError(f"the group {stop!r} comes before {start!r}; the order is {', '.join(names)}")
    return names[first : last + 1]
