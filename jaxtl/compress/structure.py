"""Structured pruning: whole units taken out of a network, whose arrays then are smaller: channels, MLP units, heads.

A model says which units it can do without (`removable`), as places in its arrays; what is here chooses and cuts, and
knows no architecture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Leaves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Cut:
    """Where units lie in an array: along an axis that reads [times, units, size].

    Attributes:
      path: of the leaf, such as "params/block0/mlp/fc1/kernel".
      axis: of it.
      size: neighbouring places that are of one unit: the channels of a head.
      times: how often all units come one after the other: 3 for queries, keys and values.
    """

    path: str
    axis: int
    size: int = 1
    times: int = 1

    def places(self, units: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
        """Gives the places along the axis of some of `count` units, in the order of the axis."""
        grid = np.arange(self.times * count * self.size).reshape(self.times, count, self.size)
        return grid[:, np.asarray(units, int)].reshape(-1)


@dataclass(frozen=True)
class Units:
    """Units of one layer that a network can do without.

    Attributes:
      name: of the layer, for messages.
      field: the field of the module, a tuple with a number for each block, that says how many there are.
      index: the place of the layer in it. Layers with the same field and place keep equally many.
      count: how many there are.
      weighed: the arrays whose norms, multiplied, say how much a unit counts.
      rest: the other arrays that have places for the units.
    """

    name: str
    field: str
    index: int
    count: int
    weighed: tuple[Cut, ...]
    rest: tuple[Cut, ...]


def importance(units: Units, leaves: Leaves, squares: Leaves | None = None) -> np.ndarray:
    """Gives how much each unit counts [count], by the mean over its layer.

    That is the norm of what the unit adds to the layer that reads it, where the squared inputs of that are known; else
    the product of the norms of its weights. Only what a layer's units count beside each other is compared between
    layers: large weights in one layer are no reason to keep more of it.

    Args:
      units: of one layer.
      leaves: of the network, by path.
      squares: sums of squared inputs by path, such as "block0/mlp/fc2/squares" (see `jaxtl.compress.input_norms`).
    """
    reading = units.weighed[-1]
    known = (squares or {}).get(reading.path.removeprefix("params/").removesuffix("kernel") + "squares")
    product = np.ones(units.count)
    for cut in units.weighed if known is None else (reading,):
        moved = np.moveaxis(np.asarray(leaves[cut.path], np.float64), cut.axis, 0)
        rows = moved.reshape(len(moved), -1) ** 2
        rows = rows if known is None else rows * np.asarray(known, np.float64)[:, None]
        product *= np.sqrt(rows.reshape(cut.times, units.count, -1).sum(axis=(0, 2)))
    return product / max(product.mean(), np.finfo(np.float64).tiny)


def widths_at(
    layers: Sequence[Units], scores: Mapping[str, np.ndarray], border: float, *, least: float
) -> dict[str, Any]:
    """Gives the fields of the module in which units that count less than `border` are gone.

    Args:
      layers: what the module can do without.
      scores: name of the layer -> what each unit counts.
      border: what a unit must count to stay.
      least: the share of each layer that stays in any case; one unit does.
    """
    fields: dict[str, list[int]] = {}
    for units in layers:
        floor = max(1, int(np.ceil(least * units.count)))
        kept = max(floor, int((scores[units.name] >= border).sum()))
        numbers = fields.setdefault(units.field, [])
        if units.index == len(numbers):
            numbers.append(kept)
        else:  # Layers that share a number keep as many as the one that needs most.
            numbers[units.index] = max(numbers[units.index], kept)
    return {field: tuple(numbers) for field, numbers in fields.items()}


def choose_widths(
    layers: Sequence[Units],
    scores: Mapping[str, np.ndarray],
    cost: Callable[[Mapping[str, Any]], float],
    share: float,
    *,
    least: float = 0.1,
) -> dict[str, Any]:
    """Gives the fields of the module that cost less by a share, with those units that count most.

    Args:
      layers: what the module can do without.
      scores: name of the layer -> what each unit counts.
      cost: fields -> what a module with them costs.
      share: of the cost that is to go, in (0, 1).
      least: the share of each layer that stays in any case.

    Raises:
      ValueError: so much cannot go; it says how much can.
    """
    values = np.unique(np.concatenate(list(scores.values())))
    whole = cost(widths_at(layers, scores, 0.0, least=least))
    smallest = cost(widths_at(layers, scores, np.inf, least=least))
    if smallest > (1 - share) * whole:
        raise ValueError(f"{1 - smallest / whole:.0%} can go at most")
    low, high = 0, len(values)  # Borders values[low] are too dear, those of `high` are not; len(values) is infinity.
    while high - low > 1:
        middle = (low + high) // 2
        if cost(widths_at(layers, scores, values[middle], least=least)) > (1 - share) * whole:
            low = middle
        else:
            high = middle
    return widths_at(layers, scores, values[high] if high < len(values) else np.inf, least=least)


def cut_units(
    leaves: Leaves,
    layers: Sequence[Units],
    scores: Mapping[str, np.ndarray],
    fields: Mapping[str, Sequence[int]],
    *,
    sums: Leaves | None = None,
) -> dict[str, np.ndarray]:
    """Gives the arrays of a network without the units that count least, by path.

    What stays is as it was, but for layers that read from the units and whose inputs are known: these are fitted to
    what they gave before.

    Args:
      leaves: by path; of arrays that are not there, such as a bias, nothing is cut.
      layers: what the module can do without.
      scores: name of the layer -> what each unit counts.
      fields: how many units stay, as `choose_widths` gives them.
      sums: products of inputs by path, such as "block0/mlp/fc2/gram" (see `jaxtl.compress.refitting`).
    """
    # Here, since every model is built by this file, and whoever only predicts does without Optax.
    from jaxtl.compress.refitting import GRAM, refit_rows

    found = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    for units in layers:
        kept = np.sort(np.argsort(-scores[units.name], kind="stable")[: fields[units.field][units.index]])
        for cut in (*units.weighed, *units.rest):
            if cut.path not in found:
                continue
            places = cut.places(kept, units.count)
            gram = (sums or {}).get(cut.path.removeprefix("params/").removesuffix("kernel") + GRAM)
            if gram is not None and cut is units.weighed[-1] and cut.axis == found[cut.path].ndim - 2:
                kernel = found[cut.path]
                window = np.arange(int(np.prod(kernel.shape[:-2])))[:, None] * kernel.shape[-2]
                fitted = refit_rows(kernel.reshape(-1, kernel.shape[-1]), (window + places).ravel(), np.asarray(gram))
                found[cut.path] = fitted.reshape(*kernel.shape[:-2], len(places), kernel.shape[-1])
            else:
                found[cut.path] = np.take(found[cut.path], places, axis=cut.axis)
    return found
