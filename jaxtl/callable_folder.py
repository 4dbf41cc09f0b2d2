"""Lets `jaxtl.train` and `jaxtl.evaluate` be called: they are folders of the package, and functions of its users.

As soon as anything below such a folder is imported, Python sets the folder as an attribute of jaxtl, over whatever
function stood there; so it is the folder that is called, and hands on to the function of its name in `jaxtl.api`.
"""

import importlib
import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The top of the house, which no file below it imports: whoever calls the folder stands above it, too.
        api = importlib.import_module("jaxtl.api")
        return getattr(api, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Makes a package that is being imported one that can be called as the function of its name in `jaxtl.api`."""
    sys.modules[name].__class__ = _Callable
