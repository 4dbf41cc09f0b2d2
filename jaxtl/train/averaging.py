"""Means of weights: one network whose parameters are the mean of several, of one architecture and one beginning.

Soups (Wortsman et al., 2022, https://arxiv.org/abs/2203.05482) are means over runs, WiSE-FT (Wortsman et al., 2021,
https://arxiv.org/abs/2109.01903) lies between pretrained and fine-tuned weights, and means over the checkpoints of one
run are those of stochastic weight averaging (Izmailov et al., 2018, https://arxiv.org/abs/1803.05407).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.checkpoints.retention import Score, numbers
from jaxtl.trees import Params, flatten, nest


def weighted_mean(trees: Sequence[Mapping[str, Params]], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Returns the mean of variables, leaf by leaf, summed in float64 and in the dtypes of the first.

    A leaf that is the same in all is handed on to the bit; of one that is no float (a counter) it is the first's.

    Args:
      trees: variables of one structure, at least one: "params" and other collections, as arrays.
      weights: of each; by default all alike. They are taken as they are, so their sum should be 1.

    Raises:
      ValueError: the structures or the shapes differ.

    >>> weighted_mean([{"params": {"bias": np.float32([0, 2])}}, {"params": {"bias": np.float32([4, 2])}}])
    {'params': {'bias': array([2., 2.], dtype=float32)}}
    """
    shares = [1 / len(trees)] * len(trees) if weights is None else list(weights)
    first, *others = (flatten(tree) for tree in trees)
    for other in others:
        differ = sorted(first.keys() ^ other.keys()) or [
            path for path in first if first[path].shape != other[path].shape
        ]
        if differ:
            raise ValueError(f"the trees differ in {len(differ)} leaves, such as {differ[0]}")
    return nest({path: _mean([first[path], *(other[path] for other in others)], shares) for path in first})


def _mean(leaves: Sequence[Any], shares: Sequence[float]) -> np.ndarray:
    first, *others = map(np.asarray, leaves)
    if not np.issubdtype(first.dtype, np.inexact) and first.dtype.name != "bfloat16":
        return first
    if all(np.array_equal(first, other) for other in others):
        return first
    total = sum(share * leaf.astype(np.float64) for share, leaf in zip(shares, (first, *others), strict=True))
    return np.asarray(total).astype(first.dtype)


def interpolate(
    start: Mapping[str, Params], end: Mapping[str, Params], alpha: float, *, keep: Collection[str] = ()
) -> dict[str, Any]:
    """Returns (1 - alpha) * start + alpha * end; at 0 and 1 the arrays of either, to the bit.

    Args:
      start: variables, such as pretrained ones.
      end: variables of the same structure, such as fine-tuned ones.
      alpha: how far from the one to the other.
      keep: paths, flattened with the collection in front, that are those of `end` whatever alpha is: a head that the
        start does not have.

    >>> interpolate({"params": {"w": np.float32([1])}}, {"params": {"w": np.float32([3])}}, 0.25)
    {'params': {'w': array([1.5], dtype=float32)}}
    """
    before, after = flatten(start), flatten(end)
    kept = {path: np.asarray(after[path]) for path in keep}
    if alpha in (0, 1):
        chosen = after if alpha else before
        return nest({path: np.asarray(chosen[path]) for path in after} | kept)
    rest = [nest({path: leaf for path, leaf in of.items() if path not in kept}) for of in (before, after)]
    return nest({**flatten(weighted_mean(rest, [1 - alpha, alpha])), **kept})


def greedy_members(scores: Sequence[Score], judge: Callable[[Sequence[int]], Score]) -> list[int]:
    """Chooses the members of a greedy soup: from the best on, each that does not make the soup worse.

    Args:
      scores: of each candidate alone, higher is better.
      judge: the indices of some candidates -> the score of their mean.

    Returns:
      The indices of those that are in, in the order in which they came in; at least one.

    >>> greedy_members([0.7, 0.9, 0.8], lambda chosen: 0.95 if set(chosen) == {1, 2} else 0.5)
    [1, 2]
    """
    order = sorted(range(len(scores)), key=lambda index: numbers(scores[index]), reverse=True)
    chosen, best = order[:1], numbers(scores[order[0]])
    for index in order[1:]:
        score = numbers(judge([*chosen, index]))
        if score >= best:
            chosen, best = [*chosen, index], score
    return chosen
