"""How a step is spread over devices: jit over a mesh (the main road), or pmap. Both run the same step functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.errors import UserError

NAMES = ("jit", "pmap")
AXIS = "data"

Tree = Any


@dataclass(frozen=True)
class Placement:
    """One way of running steps on devices.

    Attributes:
      devices: number of devices that share a batch.
      axis_name: what the step functions take as axis_name: the pmap axis, or None.
      put_state: copies a tree of arrays onto the devices, as the compiled steps take it.
      put_batch: spreads this host's rows of a global batch over its devices.
      get: the inverse of put_state: one copy of each array.
      compile: (step, *arguments, donate) -> the step compiled for arguments like these, before anything runs.
    """

    devices: int
    axis_name: str | None
    put_state: Callable[[Tree], Tree]
    put_batch: Callable[[Tree], Tree]
    get: Callable[[Tree], Tree]
    compile: Callable[..., Callable[..., Any]]


def make_placement(name: str = "jit", *, devices: list[jax.Device] | None = None) -> Placement:
    """Returns the placement "jit" (a mesh with axes "data" and "fsdp") or "pmap" over the devices (all by default).

    Raises:
      UserError: the name is neither.
    """
    devices = devices or jax.devices()
    if name == "jit":
        return _jit_placement(devices)
    if name == "pmap":
        return _pmap_placement(devices)
    raise UserError(f"train.parallel is {name!r}, but it must be one of: {', '.join(NAMES)}.")


def _jit_placement(devices: list[jax.Device]) -> Placement:
    # Auto axes: the step is written for one device, and the compiler derives the communication.
    mesh = Mesh(np.asarray(devices).reshape(-1, 1), (AXIS, "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec((AXIS, "fsdp")))

    def put_state(tree):
        # jnp.copy: device_put may alias its input, and the compiled step gives its input's buffers away.
        return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), whole), tree)

    def put_batch(batch):
        return {key: jax.make_array_from_process_local_data(rows, value) for key, value in batch.items()}

    def compile_step(step, *arguments, donate=False):
        outputs = jax.eval_shape(step, *arguments)
        jitted = jax.jit(
            step, donate_argnums=(0,) if donate else (), out_shardings=jax.tree.map(lambda _: whole, outputs)
        )
        return jitted.lower(*arguments).compile()

    return Placement(len(devices), None, put_state, put_batch, lambda tree: tree, compile_step)


def _pmap_placement(devices: list[jax.Device]) -> Placement:
    local = [device for device in devices if device.process_index == jax.process_index()]

    def put_state(tree):
        return jax.pmap(lambda _, x: x, in_axes=(0, None), devices=local)(np.arange(len(local)), tree)

    def put_batch(batch):
        return {key: value.reshape(len(local), -1, *value.shape[1:]) for key, value in batch.items()}

    def compile_step(step, *arguments, donate=False):
        mapped = jax.pmap(
            partial(step, axis_name=AXIS), axis_name=AXIS, devices=devices, donate_argnums=(0,) if donate else ()
        )
        return mapped.lower(*arguments).compile()

    return Placement(
        len(devices), AXIS, put_state, put_batch, lambda tree: jax.tree.map(lambda x: x[0], tree), compile_step
    )
