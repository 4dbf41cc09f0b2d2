"""The formats that other programs open: each file of this folder that names its `FORMAT` is one."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
      name: as the user gives it.
      text: what it is, in a few words.
      save: (path, variables, model=name, pixels=, classes=, epsilon=, calibration=), as `hf.save_huggingface` takes
        them; returns what its user must know besides, or None.
      library: the program that opens it, as the hub names it, where a model card lies in its folder; else "".
      suffix: that the name of its file must have; "" where it is a new folder.
      lay_out: (leaves, model=name, pixels=, epsilon=) -> what it would write, or a UserError that says why the program
        has no such model; None where it holds any.
    """

    name: str
    text: str
    save: Callable[..., str | None]
    library: str = ""
    suffix: str = ""
    lay_out: Callable[..., Any] | None = None


@cache
def formats() -> Mapping[str, Format]:
    """Returns the formats by name."""
    found = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    each = [module.FORMAT for module in found if hasattr(module, "FORMAT")]
    return {format.name: format for format in sorted(each, key=lambda format: format.suffix == "")}
