"""States whose blocks are stacked on the devices, while all else knows every block by its name.

See `jaxtl.parallel.scanned_layers`.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import jax
import optax

from jaxtl.parallel.partitioner import Partitioner
from jaxtl.parallel.scanned_layers import blocks_of, name_of, stack_layers, unstack_layers
from jaxtl.train.state import TrainState, with_params
from jaxtl.trees import Params, Tree, flatten, nest

T = TypeVar("T")


def find_scanned(blocks: Sequence[str], facts: Mapping[str, Hashable]) -> tuple[str, ...]:
    """Returns the names of the stacks that blocks can be kept in, each of two or more.

    Args:
      blocks: names of neighbouring blocks that are alike but for the values of their parameters.
      facts: path of each parameter -> what those in one stack must have in common.
    """
    runs: list[list[str]] = []
    before = None
    for block in blocks:
        own = {path.partition("/")[2]: fact for path, fact in facts.items() if path.startswith(f"{block}/")}
        if own == before:
            runs[-1].append(block)
        else:
            runs.append([block])
        before = own
    return tuple(name_of(run) for run in runs if len(run) > 1)


def by_scanned(values: Mapping[str, T], scanned: Sequence[str]) -> dict[str, list[T]]:
    """Returns path -> values of the parameters there: one, or as many as the stack has blocks, in their order.

    Args:
      values: path of a parameter -> its value, in any order; a path may be absent, of all blocks of a stack.
      scanned: names of stacks.
    """
    places = {block: (name, place) for name in scanned for place, block in enumerate(blocks_of(name))}
    found: dict[str, dict[int, T]] = {}
    for path, value in values.items():
        block, slash, rest = path.partition("/")
        name, place = places.get(block, (block, 0))
        found.setdefault(name + slash + rest, {})[place] = value
    return {path: [ones[place] for place in sorted(ones)] for path, ones in found.items()}


def factors_by_scanned(factors: Mapping[str, float], scanned: Sequence[str]) -> dict[str, float | tuple[float, ...]]:
    """Returns path -> factor, or one for each block of a stack whose blocks differ: as `make_optimizer` takes them."""
    found = by_scanned(factors, scanned)
    return {path: ones[0] if len(set(ones)) == 1 else tuple(ones) for path, ones in found.items()}


def first_by_scanned(values: Mapping[str, T], scanned: Sequence[str]) -> dict[str, T]:
    """Returns path -> value, of what is the same for all blocks of a stack."""
    return {path: found[0] for path, found in by_scanned(values, scanned).items()}


def scanned_state(state: TrainState, scanned: Sequence[str]) -> TrainState:
    """Returns a state whose parameters and averages are stacked, as its optimizer's arrays are already."""
    return _changed(state, lambda params: stack_layers(params, scanned))


def with_scanned(partitioner: Partitioner, scanned: Sequence[str]) -> Partitioner:
    """Returns a partitioner that keeps blocks stacked on the devices, and gives them back one by one.

    Args:
      partitioner: what shards and gathers whole trees: states, or dicts with "params".
      scanned: names of stacks; without any, the partitioner stays as it is.
    """
    if not scanned:
        return partitioner

    def shard_state(tree: Tree) -> Tree:
        return partitioner.shard_state(_changed(tree, lambda params: stack_layers(params, scanned)))

    def gather(tree: Tree) -> Tree:
        return _changed(partitioner.gather(tree), unstack_layers)

    def check(tree: Tree) -> None:
        partitioner.check(
            jax.eval_shape(lambda tree: _changed(tree, lambda params: stack_layers(params, scanned)), tree)
        )

    return dataclasses.replace(partitioner, check=check, shard_state=shard_state, gather=gather)


def over_scanned(optimizer: optax.GradientTransformation, scanned: Sequence[str]) -> optax.GradientTransformation:
    """Returns an optimizer, made for stacked parameters, that can begin with those that are not stacked yet."""
    if not scanned:
        return optimizer
    return optax.GradientTransformationExtraArgs(
        lambda params: optimizer.init(stack_layers(params, scanned)), optax.with_extra_args_support(optimizer).update
    )


def _changed(tree: Tree, change: Callable[[Params], Params]) -> Tree:
    """Returns a state, or variables, with parameters and averages changed; any other tree as it is."""
    if isinstance(tree, TrainState):
        tree = dataclasses.replace(tree, ema=flatten(with_params(nest(tree.ema), change)))
    return with_params(tree, change)
