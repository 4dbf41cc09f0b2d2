"""Frozen parts behave as in evaluation, whatever the model: its BatchNorm keeps its statistics, its dropout is off."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn

from jaxtl.finetune.param_groups import FROZEN
from jaxtl.parallel.scanned_layers import separating_loops
from jaxtl.trees import KeyPath


def module_trains(labels: Mapping[str, str]) -> Callable[[KeyPath], bool]:
    """Returns the test whether the module at a path, the parts of its name, has a parameter below it that trains.

    A module without parameters (dropout) goes with the nearest module above it that has some.
    """
    trains: dict[str, bool] = {}
    for path, label in labels.items():
        parts = path.split("/")
        for depth in range(len(parts)):
            above = "/".join(parts[:depth])
            trains[above] = trains.get(above, False) or label != FROZEN

    def test(module_path: KeyPath) -> bool:
        parts = [str(part) for part in module_path]
        while parts and "/".join(parts) not in trains:
            parts.pop()
        return trains.get("/".join(parts), False)

    return test


@contextlib.contextmanager
def frozen_modules(labels: Mapping[str, str], axis_name: str | None = None) -> Iterator[None]:
    """Makes the frozen modules of any Linen model run as in evaluation, for what is applied within.

    A module is frozen when every parameter below its path is (see `module_trains`), so models need no code of their
    own for freezing. A model that runs blocks as a loop (see `scanned_layers.loop_key`) does so with those of which the
    same parameters train.

    Args:
      labels: path of each parameter -> its group, or "frozen".
      axis_name: the pmap axis over which the BatchNorm of training modules takes its statistics, if any.
    """
    trains = module_trains(labels)

    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            if not trains(module.path):
                kwargs = force(module, kwargs, "use_running_average")
            elif axis_name is not None:
                # The statistics of training are those of the global batch on any number of devices.
                object.__setattr__(module, "axis_name", axis_name)
        elif isinstance(module, nn.Dropout) and context.method_name == "__call__" and not trains(module.path):
            kwargs = force(module, kwargs, "deterministic")
        return call(*args, **kwargs)

    def trained_below(block: str) -> frozenset[str]:
        below = f"{block}/"
        return frozenset(
            path.removeprefix(below) for path, label in labels.items() if path.startswith(below) and label != FROZEN
        )

    with nn.intercept_methods(intercept), separating_loops(trained_below):
        yield


def force(module: nn.Module, kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the arguments of a call of a module with a flag, such as "deterministic", set whatever was given."""
    # Linen takes such a flag either as a field or as an argument, and refuses both at once.
    if getattr(module, name) is None:
        return kwargs | {name: True}
    object.__setattr__(module, name, True)
    return kwargs
