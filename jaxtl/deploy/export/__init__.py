"""The formats that other programs open: each file of this folder that names its `FORMAT` is one."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Runner:
    """An export as some program runs it.

    Attributes:
      program: its name and version, such as "onnxruntime 1.32.0".
      logits: views, uint8 [N, S, S, C] -> logits [N, K].
    """

    program: str
    logits: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
      name: as the user gives it.
      text: what it is, in a few words.
      save: (path, program, request) -> what its user must know besides, or None: see `program.Program` and
        `Request`. Of a format that holds weights alone, `weights_alone` makes it of (path, variables, model=name,
        pixels=, classes=, epsilon=, calibration=, provenance=).
      library: the program that opens it, as the hub names it, where a model card lies in its folder; else "".
      suffix: that the name of its file must have; "" where it is a new folder.
      run: opens an export, to compute its logits with the program that it is for.
      lay_out: (leaves, model=name, pixels=, epsilon=) -> what it would write, or a UserError that says why the program
        has no such model; None where it holds any.
      notes: reads what an export says of itself (see `notes.Notes`); None where that lies in files, in or beside it.
      dtypes: what it may compute in.
      takes_pixels: whether pixels may be normalised within.
      archive: the ending by which a folder becomes one file, such as ".zip"; "" where none does.
      compares: whether `save` runs what it wrote on `request.views`.
      measures: whether it takes images of train, and images of val with their labels, in the request.
      require: raises a UserError where a package that it takes is not installed.
    """

    name: str
    text: str
    save: Callable[..., str | None]
    library: str = ""
    suffix: str = ""
    run: Callable[[Path], Runner] | None = None
    lay_out: Callable[..., Any] | None = None
    notes: Callable[[Path], Any] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    takes_pixels: bool = False
    archive: str = ""
    compares: bool = False
    measures: bool = False
    require: Callable[[], object] | None = None


@cache
def formats() -> Mapping[str, Format]:
    """Returns the formats by name."""
    found = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    each = [module.FORMAT for module in found if hasattr(module, "FORMAT")]
    return {format.name: format for format in sorted(each, key=lambda format: format.suffix == "")}
