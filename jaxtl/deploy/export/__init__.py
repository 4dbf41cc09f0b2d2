"""The formats that other programs open: each file of this folder that names its `FORMAT` is one."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
      name: as the user gives it.
      text: what it is, in a few words.
      save: (path, variables, model=name, pixels=, classes=, epsilon=), as `hf.save_huggingface` takes them; returns
        what its user must know besides, or None.
      suffix: that the name of its file must have; "" where it is a new folder.
      any_head: whether it holds a head with hidden layers, with another pooling than its family's, or with one logit.
    """

    name: str
    text: str
    save: Callable[..., str | None]
    suffix: str = ""
    any_head: bool = True


@cache
def formats() -> Mapping[str, Format]:
    """Returns the formats by name."""
    found = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    each = [module.FORMAT for module in found if hasattr(module, "FORMAT")]
    return {format.name: format for format in sorted(each, key=lambda format: format.suffix == "")}
