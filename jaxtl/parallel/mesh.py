"""Where arrays lie: the mesh of devices, and along which of its axes each array of the state is sharded.

The mesh has two axes. "data" copies the state and cuts the batch; "fsdp" cuts both: each array of the state lies in
parts on the devices along it, and a step fetches it whole where it is needed. Rows of the batch stay where they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.errors import UserError
from jaxtl.parallel.scanned_layers import blocks_of
from jaxtl.trees import KeyPath, Tree

AXIS, FSDP = AXES = ("data", "fsdp")
# Below so many elements an array lies whole on every device: fetching it would cost more than keeping it.
MIN_SHARDED = 4096


class Shaped(Protocol):
    """An array, or what stands for one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes."""


# Regular expression -> for each dimension of the arrays it fits, the axis that it is sharded along, or None.
Rules = Mapping[str, Sequence[str | None]]


def make_mesh(devices: Sequence[jax.Device], mesh: Mapping[str, int]) -> Mesh:
    """Returns the mesh over the devices; see `mesh_shape`.

    Raises:
      UserError: it does not fit the devices.
    """
    # In the order of the processes, so that each feeds contiguous rows.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.asarray(ordered).reshape(mesh_shape(mesh, len(devices)))
    # Auto axes: the step is written for one device, and the compiler derives the communication.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def mesh_shape(mesh: Mapping[str, int], devices: int) -> tuple[int, int]:
    """Returns the number of devices along "data" and "fsdp".

    Args:
      mesh: the same, where -1, for one of them, is as many as there are. All along "data" by default.
      devices: in all.

    Raises:
      UserError: they do not multiply to the number of devices.
    """
    data, fsdp = mesh.get(AXIS, -1), mesh.get(FSDP, 1)
    if data == -1 and fsdp > 0:
        data = devices // fsdp
    elif fsdp == -1 and data > 0:
        fsdp = devices // data
    if data < 1 or fsdp < 1 or data * fsdp != devices:
        raise UserError(
            f"mesh is {dict(mesh)}, but data x fsdp must be the number of devices, {devices}: "
            f"give {{'data': -1, 'fsdp': k}} with a k that divides {devices}."
        )
    return data, fsdp


def axes_of(path: str, shape: Sequence[int], *, fsdp: int, rules: Rules) -> tuple[str | None, ...]:
    """Returns the axis that each dimension of an array is sharded along; () where it lies whole on every device.

    The first rule that fits the end of the path counts: "head/kernel" fits params/head/kernel and the moments that the
    optimizer keeps of it. Without one, arrays of MIN_SHARDED elements and more are sharded along their largest
    dimension that `fsdp` divides; of equal ones, the last.
    """
    for rule, axes in rules.items():
        if _fits(rule, path):
            return tuple(axes)
    divisible = [(length, place) for place, length in enumerate(shape) if length % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < MIN_SHARDED or not divisible:
        return ()
    return (None,) * max(divisible)[1] + (FSDP,)


def of_state(tree: Tree, mesh: Mesh, rules: Rules) -> Tree:
    """Returns how each array of a state, or of shapes, lies on the mesh; stacks are sharded as each of their blocks.

    Raises:
      UserError: a rule cuts an array along what does not divide it, or twice along one axis, or blocks of one stack in
        different ways.
    """

    def of_leaf(path: KeyPath, leaf: Shaped) -> NamedSharding:
        names, own = _blocks(_name(path), leaf.shape)
        ways = {axes_of(name, own, fsdp=mesh.shape[FSDP], rules=rules): name for name in reversed(names)}
        if len(ways) > 1:
            apart = " and ".join(sorted(ways.values()))
            raise UserError(
                f"the sharding rules shard {apart} in different ways, but they are scanned layers: give rules that fit "
                "all of them alike, or a model without scan."
            )
        (axes,) = ways
        axes = (None, *axes) if axes and len(own) < len(leaf.shape) else axes
        known = len(axes) <= len(leaf.shape) and len({*axes} - {None}) == sum(axis is not None for axis in axes)
        if not known or any(axis and leaf.shape[i] % mesh.shape[axis] for i, axis in enumerate(axes)):
            raise UserError(
                f"the sharding rules shard {_name(path)} {tuple(leaf.shape)} along {axes} of the mesh "
                f"{dict(mesh.shape)}, which must name each axis at most once and divide the dimension: give others, or "
                "()."
            )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def check_rules(tree: Tree, mesh: Mesh, rules: Rules) -> None:
    """Checks the rules against a tree of variables.

    Raises:
      UserError: one fits no array, or cuts one as it cannot be sharded.
    """
    of_state(tree, mesh, rules)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [name for path, leaf in leaves for name in _blocks(_name(path), leaf.shape)[0]]
    for rule in rules:
        if not any(_fits(rule, name) for name in names):
            raise UserError(f"the sharding rule {rule!r} fits no parameter; `describe` lists them.")


def of_batch(mesh: Mesh) -> NamedSharding:
    """Returns how a batch lies on the mesh: its rows are sharded along both axes."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def abstract_arguments(
    state: Tree, batch: Tree, *, mesh: Mapping[str, int], rules: Rules, devices: Sequence[jax.Device]
) -> tuple[Tree, Tree]:
    """Returns the state and the global batch, as shapes, laid out as the partitioner "jit" lays them out: for compile.

    Nothing is put on the devices, which may be described only.
    """
    grid = make_mesh(devices, mesh)
    layout = (of_state(state, grid, rules), jax.tree.map(lambda _: of_batch(grid), batch))
    return jax.tree.map(lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), (state, batch), layout)


def _blocks(path: str, shape: Sequence[int]) -> tuple[list[str], Sequence[int]]:
    """Returns the paths and the shape that the arrays of the blocks of a stack would have by themselves."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        if blocks := blocks_of(part):
            return ["/".join([*parts[:place], block, *parts[place + 1 :]]) for block in blocks], shape[1:]
    return [path], shape


def _fits(rule: str, path: str) -> bool:
    return re.search(rf"(?:^|/)(?:{rule})$", path) is not None


def _name(path: KeyPath) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")
