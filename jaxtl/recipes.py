"""Recipes: config files in ./configs of the person at work, and those that come with jaxtl; found, read and run."""

import ast
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError, nearest

OWN = Path("configs")
"""Where a name is looked for first, and where `copy` puts a recipe."""


@dataclass(frozen=True)
class Recipe:
    """A config file.

    Attributes:
      path: where it is.
      docstring: what it says of itself: its command, and the result that this gave.
      variants: those that a table `VARIANTS` in it names; empty where it has none, or they cannot be told.
    """

    path: Path
    docstring: str
    variants: tuple[str, ...]

    @property
    def name(self) -> str:
        """What --config takes."""
        return self.path.stem


@dataclass(frozen=True)
class Located:
    """Which file is meant.

    Attributes:
      path: of the file, which exists.
      variant: what was written after the colon.
      note: what the person should know about the choice; mostly "".
    """

    path: Path
    variant: str
    note: str = ""


def packaged() -> Path:
    """Returns the folder of the recipes that come with jaxtl: in it as installed, beside it in a checkout."""
    here = Path(__file__).parent
    return next(folder for folder in (here / "configs", here.parent / "configs") if folder.is_dir())


def names(folder: Path) -> list[str]:
    """Returns the names of the recipes in a folder, which need not exist."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def every() -> Iterator[Recipe]:
    """Yields the recipes that a name finds: those in ./configs, and those of jaxtl that none of them hides."""
    own = names(OWN)
    yield from (read(OWN / f"{name}.py") for name in own)
    yield from (read(packaged() / f"{name}.py") for name in names(packaged()) if name not in own)


def read(path: Path) -> Recipe:
    """Reads what a recipe says of itself, without running it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        return Recipe(path, f"It cannot be read: {error}.", ())
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["VARIANTS"]
    ]
    keys = [key for table in tables if isinstance(table, ast.Dict) for key in table.keys]
    variants = tuple(key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return Recipe(path, ast.get_docstring(tree) or "", variants)


def locate(given: str) -> Located:
    """Finds the file of "FILE[:variant]" or "NAME[:variant]".

    A name is ./configs/NAME.py, else a recipe of jaxtl. A path is that file; of configs/NAME.py, where there is none,
    it is jaxtl's recipe of that name, with a note.

    Raises:
      UserError: there is no such file and no such recipe.
    """
    text, _, variant = given.partition(":")
    path = Path(text)
    if path.is_file():
        return Located(path, variant)
    is_name = path.name == text and not path.suffix
    if is_name and (OWN / f"{text}.py").is_file():
        return Located(OWN / f"{text}.py", variant)
    found = packaged() / f"{path.stem}.py"
    # A path to some other folder is one that was mistyped.
    if text and (is_name or path.parent == OWN) and path.suffix in ("", ".py") and found.is_file():
        note = "" if is_name else f"note: there is no file {text} here; taken is the one that comes with jaxtl, {found}"
        return Located(found, variant, note)
    raise UserError(f"--config={given}: {_missing(text, path)}")


def _missing(text: str, path: Path) -> str:
    near = nearest(path.stem, [*names(OWN), *names(packaged())])
    meant = f"; did you mean {near}?" if near else "."
    return f"there is no file {text}, and no such recipe comes with jaxtl{meant} `jaxtl configs` lists them."


def run(path: str) -> Any:
    """Runs the config file of "FILE[:variant]" or "NAME[:variant]"; returns what its get_config() gives.

    Raises:
      UserError: there is no such file or variant, or the file fails.
    """
    located = locate(path)
    if located.note:
        print(located.note)
    file, variant = located.path, located.variant
    spec = importlib.util.spec_from_file_location("jaxtl_config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: {file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    _try(path, file, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f'--config={path}: {file} must define get_config(variant=""), as the recipes of jaxtl do.')
    if not inspect.signature(get_config).parameters:
        if variant:
            raise UserError(f"--config={path}: {file} has no variants, since its get_config() takes no argument.")
        config = _try(path, file, get_config)
    else:
        if variant and isinstance(table := getattr(module, "VARIANTS", None), Mapping):
            choose_variant(variant, table)
        config = _try(path, file, lambda: get_config(variant))
    return config


def _try(path: str, file: Path, code: Callable[[], Any]) -> Any:
    """Runs code of a config file, whose errors are its author's to fix."""
    try:
        return code()
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
        where = f"{file}, line {line}" if line else str(file)
        raise UserError(f"--config={path}: {where}: {type(error).__name__}: {error}") from error


def choose_variant(variant: str, variants: Mapping[str, Any]) -> Any:
    """Returns the entry of that variant; for config files.

    Raises:
      UserError: there is none of that name.
    """
    if variant not in variants:
        if not any(variants):
            raise UserError(f"the config has no variants: leave {':' + variant!r} out.")
        names = ", ".join(repr(name) for name in variants)
        if not variant:
            raise UserError(f"the config needs a variant, as in FILE:{next(iter(variants))}; it has: {names}.")
        raise UserError(f"the config has no variant {variant!r}; it has: {names}.")
    return variants[variant]


def copy(name: str) -> Path:
    """Copies a recipe that comes with jaxtl to ./configs, for its user to change; returns the new file.

    Raises:
      UserError: there is no such recipe, or a file is there already, or it cannot be written.
    """
    stem = Path(name.partition(":")[0]).stem
    source, target = packaged() / f"{stem}.py", OWN / f"{stem}.py"
    if not source.is_file():
        near = nearest(stem, names(packaged()))
        meant = f"; did you mean {near}?" if near else "."
        raise UserError(f"no recipe {name} comes with jaxtl{meant} They are: {', '.join(names(packaged()))}.")
    try:
        OWN.mkdir(exist_ok=True)
        with open(target, "x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{target} is there already, and stays as it is: move it away to have a new copy.") from None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from error
    return target
