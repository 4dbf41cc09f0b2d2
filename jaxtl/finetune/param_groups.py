"""Which parameters train, and how fast: a model's table of groups turned into one label and one rate per leaf.

Parameters are addressed by path ("block3/attn/qkv/kernel"). A rule is a regular expression that fits a leaf when it
matches, in full, the name of the leaf's group, one component of its path, or the whole path: "block1[01]", "bias",
"head/kernel". Three rules have names: "biases" (all biases, as in BitFit, https://arxiv.org/abs/2106.10199), "norms"
(scales and biases of all normalisations, as in https://arxiv.org/abs/2003.00152) and "backbone" (every group but the
head, of whatever model).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtl.errors import UserError
from jaxtl.trees import Params, flatten

FROZEN = "frozen"
KINDS = {"biases": "bias", "norms": r".*[Nn]orm(_?\d+|_pre)?|(.*_)?bn[\d_]*"}
Table = Sequence[tuple[str, str]]  # (name, pattern) from input to head


class UnmatchedRules(UserError):
    """What is to train, or at which rate, was said by names or a number that do not fit the model.

    Attributes:
      problems: one line each.
      groups: the model's groups, where listing them helps.
    """

    def __init__(self, problems: Sequence[str], groups: Sequence[str] = ()):
        self.problems, self.groups = tuple(problems), tuple(groups)
        super().__init__("\n".join(_with_groups(self.problems, self.groups)))


def assign(params: Params, table: Table) -> dict[str, str]:
    """Maps each parameter path to its group, in the order of the table; every path must match exactly one.

    A group owns the paths that start with its pattern and go on with "/" or end there.

    Raises:
      ValueError: lists every path that matches no group or several, and every group that owns nothing.
    """
    patterns = [(name, re.compile(rf"(?:{pattern})(?:/|$)")) for name, pattern in table]
    owners = {path: [name for name, pattern in patterns if pattern.match(path)] for path in flatten(params)}
    problems = [f"{path}: {', '.join(names) or 'no group'}" for path, names in owners.items() if len(names) != 1]
    used = {name for names in owners.values() for name in names}
    problems += [f"group {name!r} owns no parameter" for name, _ in table if name not in used]
    if problems:
        raise ValueError("each parameter belongs to exactly one group, but:\n  " + "\n  ".join(problems))
    position = {name: index for index, (name, _) in enumerate(table)}
    return dict(sorted(((path, name) for path, [name] in owners.items()), key=lambda item: position[item[1]]))


def matches(rule: str, path: str, group: str) -> bool:
    """Tells whether a rule fits the group, one component of the path, or the whole path."""
    if rule == "backbone":
        return group != "head"
    return any(re.fullmatch(KINDS.get(rule, rule), text) for text in (group, path, *path.split("/")))


def select(assignment: Mapping[str, str], unfreeze: str | int, *, key: str = "unfreeze") -> dict[str, str]:
    """Labels each path with its group, or with "frozen" where it is not to train.

    Args:
      assignment: path -> group, in the order of the groups from input to head.
      unfreeze: "all"; "head"; a number k (the head and the k groups before it); or rules separated by commas.
      key: what errors call it.

    Raises:
      UnmatchedRules: k is larger than the number of groups, or a rule fits nothing.
    """
    order = _order(assignment)
    text = str(unfreeze).strip()
    if text == "all":
        return dict(assignment)
    if re.fullmatch(r"-?\d+", text):
        k = int(text)
        if not 0 <= k < len(order):
            problem = f"{key} is {k}, but this model has {len(order) - 1} groups before its head"
            raise UnmatchedRules([f'{problem}: give 0 to {len(order) - 1}, or "all".'])
        chosen = set(order[len(order) - 1 - k :])
        return {path: group if group in chosen else FROZEN for path, group in assignment.items()}
    rules = _split(text)
    if not rules:
        raise UnmatchedRules([f'{key} is empty: give "all", "head", a number, or names.'])
    check_rules(rules, assignment, key)
    return {
        path: group if any(matches(rule, path, group) for rule in rules) else FROZEN
        for path, group in assignment.items()
    }


def multipliers(
    assignment: Mapping[str, str],
    *,
    layer_decay: float = 1.0,
    rules: Mapping[str, float] | None = None,
    key: str = "rules",
) -> dict[str, float]:
    """Returns the factor on the learning rate of each path.

    The head has factor 1, the group before it `layer_decay`, the next its square, and so on down to the input
    (discriminative fine-tuning, https://arxiv.org/abs/1801.06146); each rule that fits multiplies its own factor in.

    Args:
      assignment: path -> group, in the order of the groups from input to head.
      layer_decay: factor from one group to the one before it.
      rules: regular expression -> factor.
      key: what errors call the rules.

    Raises:
      UnmatchedRules: a rule fits nothing.
    """
    rules = dict(rules or {})
    check_rules(rules, assignment, key)
    order = _order(assignment)
    depth = {group: len(order) - 1 - index for index, group in enumerate(order)}
    factors = {}
    for path, group in assignment.items():
        factor = layer_decay ** depth[group]
        for rule, value in rules.items():
            if matches(rule, path, group):
                factor *= value
        factors[path] = factor
    return factors


def partition(params: Params, labels: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the parameters into (trainable, frozen) leaves by path; `nest` of both joins them again."""
    leaves = flatten(params)
    trainable = {path: leaf for path, leaf in leaves.items() if labels[path] != FROZEN}
    return trainable, {path: leaf for path, leaf in leaves.items() if path not in trainable}


def check_rules(rules: Iterable[str], assignment: Mapping[str, str], key: str) -> None:
    """Sees that every rule fits something.

    Raises:
      UnmatchedRules: lists the rules that fit nothing or are no regular expressions, and the groups.
    """
    problems = []
    for rule in rules:
        try:
            if not any(matches(rule, path, group) for path, group in assignment.items()):
                problems.append(f"{key}: {rule!r} fits no group and no parameter")
        except re.error as error:
            problems.append(f"{key}: {rule!r} is not a regular expression ({error})")
    if problems:
        raise UnmatchedRules(problems, _order(assignment))


def unmatched_rules(
    assignment: Mapping[str, str], unfreeze: Mapping[str, str | int], rules: Mapping[str, Sequence[str]]
) -> list[str]:
    """Returns what `select` and `check_rules` would complain of, all at once, one line each.

    Args:
      assignment: path -> group, in the order of the groups from input to head.
      unfreeze: key -> what is to train.
      rules: key -> rules.
    """
    checks: list[Callable[[], object]] = [
        partial(select, assignment, value, key=key) for key, value in unfreeze.items()
    ]
    checks += [partial(check_rules, given, assignment, key) for key, given in rules.items()]
    problems: list[str] = []
    groups: tuple[str, ...] = ()
    for check in checks:
        try:
            check()
        except UnmatchedRules as error:
            problems += error.problems
            groups = groups or error.groups
    # One list of the groups will do, after all that misses them.
    return _with_groups(list(dict.fromkeys(problems)), groups)


def _with_groups(problems: Sequence[str], groups: Sequence[str]) -> list[str]:
    return [*problems, *([f"The groups are: {' '.join(groups)}."] if groups else [])]


def _order(assignment: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(assignment.values()))


def _split(text: str) -> list[str]:
    return [rule.strip() for rule in text.split(",") if rule.strip()]
