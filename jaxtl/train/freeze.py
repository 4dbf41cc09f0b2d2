"""Frozen parts behave as in evaluation, whatever the model: its BatchNorm keeps its statistics, its dropout is off."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn

from jaxtl.train.groups import FROZEN


def frozen_modules(labels: Mapping[str, str], axis_name: str | None = None) -> AbstractContextManager[Any]:
    """Returns a context in which the frozen modules of any Linen model run as in evaluation.

    A module is frozen when every parameter below its path is; one without parameters (dropout) goes with the nearest
    module above it that has some. So models need no code of their own for freezing.

    Args:
      labels: path of each parameter -> its group, or "frozen".
      axis_name: the pmap axis over which the BatchNorm of training modules takes its statistics, if any.
    """
    trains: dict[str, bool] = {}
    for path, label in labels.items():
        parts = path.split("/")
        for depth in range(len(parts)):
            above = "/".join(parts[:depth])
            trains[above] = trains.get(above, False) or label != FROZEN

    def is_frozen(module: nn.Module) -> bool:
        parts = [str(part) for part in module.path]
        while parts and "/".join(parts) not in trains:
            parts.pop()
        return not trains.get("/".join(parts), True)

    def intercept(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            if is_frozen(module):
                kwargs = _force(module, kwargs, "use_running_average")
            elif axis_name is not None:
                # The statistics of training are those of the global batch on any number of devices.
                object.__setattr__(module, "axis_name", axis_name)
        elif isinstance(module, nn.Dropout) and context.method_name == "__call__" and is_frozen(module):
            kwargs = _force(module, kwargs, "deterministic")
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _force(module: nn.Module, kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    # Linen takes such a flag either as a field or as an argument, and refuses both at once.
    if getattr(module, name) is None:
        return kwargs | {name: True}
    object.__setattr__(module, name, True)
    return kwargs
