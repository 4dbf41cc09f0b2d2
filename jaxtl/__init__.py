"""jaxtl: transfer learning for image classification, in pure JAX.

From Python: `jaxtl.load`, `jaxtl.train`, `jaxtl.evaluate` and `jaxtl.describe` (see `jaxtl.api`). Importing jaxtl
imports nothing else; each of them imports what it needs when it is called.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxtl.api import describe, evaluate, load, train

__all__ = ["UserError", "describe", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name in ("load", "describe"):
        from jaxtl import api

        return getattr(api, name)
    if name == "UserError":
        from jaxtl.errors import UserError

        return UserError
    if name in ("train", "evaluate"):
        import importlib

        # Folders of the package, which can be called: see `jaxtl.callable_folder`.
        return importlib.import_module(f"jaxtl.{name}")
    raise AttributeError(f"module 'jaxtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
