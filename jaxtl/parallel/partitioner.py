"""How a step is spread over devices: jit over a mesh (the main road), or pmap. Both run the same step functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl.errors import UserError
from jaxtl.parallel import mesh as mesh_lib
from jaxtl.parallel.mesh import AXIS, FSDP, Rules
from jaxtl.parallel.state_step import Function, Leaves, StateStep, is_key
from jaxtl.trees import Tree

NAMES = ("jit", "pmap")

# This host's rows of a global batch.
Batch: TypeAlias = Mapping[str, np.ndarray]
Array: TypeAlias = Any  # jax.Array or np.ndarray; what asks for the parts of an array has made sure of the first.


class Compile(Protocol):
    """The type of `Partitioner.compile`."""

    def __call__(self, step: Function, *arguments: Tree, donate: bool = False) -> Function:
        """Returns the step compiled for arguments like these."""


@dataclass(frozen=True)
class Partitioner:
    """One way of running steps on devices.

    Attributes:
      devices: number of devices that share a batch.
      axis_name: what the step functions take as axis_name: the pmap axis, or None.
      check: raises a UserError where the sharding rules do not fit a tree of variables.
      shard_state: copies a tree of arrays onto the devices, as the compiled steps take it.
      shard_batch: spreads this host's rows of a global batch over its devices.
      gather: the inverse of shard_state: one copy of each array.
      compile: (step, *arguments, donate) -> the step compiled for arguments like these, before anything runs; with
        `donate` it returns (state, rest), the state takes the buffers of the first argument, and "jit" gives a
        `StateStep`.
    """

    devices: int
    axis_name: str | None
    check: Callable[[Tree], None]
    shard_state: Callable[[Tree], Tree]
    shard_batch: Callable[[Tree], Tree]
    gather: Callable[[Tree], Tree]
    compile: Compile


def make_partitioner(
    name: str = "jit",
    *,
    mesh: Mapping[str, int] | None = None,
    rules: Rules | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Partitioner:
    """Returns the partitioner "jit" or "pmap" over the devices.

    Args:
      name: "jit" or "pmap".
      mesh: number of devices along "data" and "fsdp", as `mesh_lib.mesh_shape` takes it.
      rules: how arrays of the state are sharded, in place of `mesh_lib.axes_of`'s own rule.
      devices: all, of all processes, by default.

    Raises:
      UserError: there is no such name, or the mesh does not fit the devices.
    """
    grid = mesh_lib.make_mesh(devices or jax.devices(), mesh or {})
    if name == "jit":
        return _jit_partitioner(grid, rules or {})
    if name == "pmap":
        if grid.shape[FSDP] > 1:
            raise UserError(
                '"pmap" copies the state to each device: take the partitioner "jit", or a mesh with fsdp 1.'
            )
        return _pmap_partitioner(list(grid.devices.flat))
    raise UserError(f"the partitioner {name!r} is none of {', '.join(NAMES)}.")


def _jit_partitioner(mesh: Mesh, rules: Rules) -> Partitioner:
    whole = NamedSharding(mesh, PartitionSpec())
    rows = mesh_lib.of_batch(mesh)

    def shard_state(tree: Tree) -> Tree:
        return jax.tree.map(_copy, tree, mesh_lib.of_state(tree, mesh, rules))

    def shard_batch(batch: Batch) -> Tree:
        return {key: jax.make_array_from_process_local_data(rows, value) for key, value in batch.items()}

    def compile_step(step: Function, *arguments: Tree, donate: bool = False) -> Function:
        if mesh.shape[FSDP] > 1:
            step = _keeping_rows(step, rows)
        if not donate:
            return jax.jit(step, out_shardings=whole).lower(*arguments).compile()
        # A state lies after the step as before it, so its shapes need not be asked for by another trace.
        leaves = Leaves.of(arguments[0])
        kept = jax.tree.leaves(mesh_lib.of_state(arguments[0], mesh, rules))
        on_leaves = jax.jit(_over_leaves(step, leaves), donate_argnums=0, out_shardings=(kept, whole))
        return StateStep(on_leaves.lower(leaves.arrays, *arguments[1:]).compile())

    check = partial(mesh_lib.check_rules, mesh=mesh, rules=rules)
    return Partitioner(mesh.size, None, check, shard_state, shard_batch, lambda tree: tree, compile_step)


def _over_leaves(step: Function, like: Leaves) -> Function:
    """Returns a step of (state, ...) to (state, rest) as one from list of arrays to list of arrays."""

    def train_step(arrays: list[jax.Array], *rest: Tree) -> tuple[list[jax.Array], Tree]:
        state, result = step(Leaves(arrays, like.structure, like.keys).tree(), *rest)
        after = Leaves.of(state)
        if after.structure != like.structure:
            raise ValueError(f"the step returns a state of another structure than it takes: {after.structure}")
        return after.arrays, result

    return train_step


def _keeping_rows(step: Function, rows: NamedSharding) -> Function:
    """Returns a step in which what Linen modules make of a batch lies where its rows lie.

    Left to itself, the compiler may leave a kernel in its parts, and send the rows of all devices around instead: that
    grows with the batch. Modules map [B, ...] to [B, ...], where B is what the outermost is called with,
    or rows [B * N, ...] to such rows, as the blocks of a ViT do on a GPU.
    """
    batches: list[int] = []

    def keep(
        call: Function, args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Tree:
        del context
        given = _rows_of(args[0]) if args else 0
        batches.append(batches[0] if batches else given)
        try:
            result = call(*args, **kwargs)
            kept = given and given % batches[0] == 0 and given % rows.mesh.size == 0
        finally:
            batches.pop()
        if not kept:
            return result
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if _rows_of(x) == given else x, result)

    def train_step(*arguments: Tree) -> Tree:
        with nn.intercept_methods(keep):
            return step(*arguments)

    return train_step


def _rows_of(x: object) -> int:
    return x.shape[0] if isinstance(x, jax.Array) and x.ndim else 0


def _copy(x: Array, to: NamedSharding) -> jax.Array:
    """Returns a copy of an array that every process has, spread over the devices of all of them."""
    if is_key(x):
        return jax.random.wrap_key_data(_copy(jax.random.key_data(x), to), impl=jax.random.key_impl(x))
    if not _is_local(x):
        # Not device_put, which may hand on the very buffers: two arrays of a state may be copies of one.
        return jax.jit(jnp.copy, out_shardings=to)(x)
    if jax.process_count() == 1:
        # jnp.copy: device_put may alias its input, and the compiled step gives its input's buffers away.
        return jax.device_put(jnp.copy(x), to)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, to, lambda index: np.array(host[index]))


def _pmap_partitioner(devices: list[jax.Device]) -> Partitioner:
    local = [device for device in devices if device.process_index == jax.process_index()]
    if len(local) < len(devices):
        return _pmap_over_processes(devices, len(local))

    def shard_state(tree: Tree) -> Tree:
        return jax.pmap(lambda _, x: x, in_axes=(0, None), devices=local)(np.arange(len(local)), tree)

    def shard_batch(batch: Batch) -> Tree:
        return {key: value.reshape(len(local), -1, *value.shape[1:]) for key, value in batch.items()}

    def compile_step(step: Function, *arguments: Tree, donate: bool = False) -> Function:
        return _pmap(step, devices, donate).lower(*arguments).compile()

    return Partitioner(
        len(devices),
        AXIS,
        lambda tree: None,
        shard_state,
        shard_batch,
        partial(jax.tree.map, lambda x: x[0]),
        compile_step,
    )


def _pmap_over_processes(devices: list[jax.Device], local: int) -> Partitioner:
    """The same with arrays of all processes, one row a device: what pmap compiled ahead of time takes."""
    mesh = Mesh(np.asarray(devices), (AXIS,))
    rows, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())

    def shard(x: Array) -> jax.Array:
        if is_key(x):
            return jax.random.wrap_key_data(shard(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        host = np.asarray(x if _is_local(x) else x.addressable_data(0))[None]
        return jax.make_array_from_callback((len(devices), *host.shape[1:]), rows, lambda _: host)

    def shard_batch(batch: Batch) -> Tree:
        parts = {key: value.reshape(local, -1, *value.shape[1:]) for key, value in batch.items()}
        return {key: jax.make_array_from_process_local_data(rows, value) for key, value in parts.items()}

    def gather(x: jax.Array) -> jax.Array:
        if is_key(x):
            return jax.random.wrap_key_data(gather(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        # What several processes hold alike becomes one array of all of them, as checkpoints want it.
        return _copy(x.addressable_data(0)[0], whole)

    def lowered_from(x: jax.Array) -> jax.Array:
        # Of keys, pmap wants this process' part.
        if not is_key(x):
            return x
        part = np.concatenate([shard.data for shard in jax.random.key_data(x).addressable_shards])
        return jax.random.wrap_key_data(jnp.asarray(part), impl=jax.random.key_impl(x))

    def compile_step(step: Function, *arguments: Tree, donate: bool = False) -> Function:
        return _pmap(step, devices, donate).lower(*jax.tree.map(lowered_from, arguments)).compile()

    return Partitioner(
        len(devices),
        AXIS,
        lambda tree: None,
        partial(jax.tree.map, shard),
        shard_batch,
        partial(jax.tree.map, gather),
        compile_step,
    )


def _pmap(step: Function, devices: list[jax.Device], donate: bool) -> Any:
    donated = (0,) if donate else ()
    return jax.pmap(partial(step, axis_name=AXIS), axis_name=AXIS, devices=devices, donate_argnums=donated)


def _is_local(x: object) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable
