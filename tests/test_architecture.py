"""The plan of the house: a file imports only from its own folder and from folders above it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from jaxtl import config, main

ROOT = Path(__file__).parents[1] / "jaxtl"
ORDER = (
    *("errors", "trees", "preprocessing", "callable_folder"),
    *("parallel", "compress", "models", "checkpoints", "pretrained", "data", "finetune", "train", "feature_cache"),
    *("evaluate", "audit", "profiling", "explain", "report", "deploy"),
    # These see a config: they come after all folders that do the work.
    *("recipes", "config_help", "config_checks", "config", "experiment", "commands"),
    *("interrupts", "command_line", "main", "api"),
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@cache
def parse(path: Path) -> ast.Module:
    """Parses a file once for all rules."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[str]:
    """Returns what a file imports from jaxtl, relative to it, as in "models.vit"."""
    names = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("jaxtl.") for name in names if name.startswith("jaxtl.") and name != "jaxtl.__version__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_above(path):
    rank = ORDER.index(folder_of(path))
    later = [name for name in imports(path) if ORDER.index(name.split(".")[0]) > rank]
    assert not later, f"{path} imports {later}, which come later"


def test_no_file_imports_itself_through_others():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    graph = {module: {module_of(name) for name in imports(path)} for module, path in modules.items()}
    open_modules: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        assert module not in open_modules, f"a circle: {' -> '.join([*open_modules, module])}"
        if module not in done:
            open_modules.append(module)
            for other in sorted(graph[module]):
                visit(other)
            done.add(open_modules.pop())

    for module in graph:
        visit(module)


def test_a_config_is_seen_by_the_door_only():
    seeing = {folder_of(path) for path in FILES if "ml_collections" in path.read_text()}
    assert seeing <= {"config", "experiment", "commands", "api"}


def test_nothing_but_one_module_touches_orbax():
    touching = {path.relative_to(ROOT) for path in FILES if "import orbax." in path.read_text()}
    assert touching == {Path("checkpoints/orbax_io.py")}


def test_no_command_imports_another():
    for path in (ROOT / "commands").glob("*.py"):
        others = {name for name in imports(path) if name.startswith("commands.")}
        assert all(name.split(".")[1] == "flags" for name in others), f"{path} imports {others}"


def strings(path: Path) -> list[str]:
    """Returns the string constants of a file but for its docstrings."""
    tree = parse(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {node.value for node in first if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_no_message_below_the_door_names_a_config_key():
    keys = "|".join(re.escape(key) for key in config.flat(config.default()))
    for path in FILES:
        if folder_of(path) in ORDER[: ORDER.index("config_checks")]:
            named = [text for text in strings(path) if re.search(rf"(?<![\w.])(config\.)?({keys})(?![\w.])", text)]
            assert not named, f"{path} names config keys: {named}"


def test_no_signature_is_longer_than_eight_arguments():
    long = []
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [each.arg for each in given if each.arg not in ("self", "cls", "state", "batch")]
                long += [f"{path}: {node.name} takes {len(names)}"] if len(names) > 8 else []
    assert not long


def test_commands_are_thin():
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "commands").glob("*.py"))
    assert lines < 75 * len(main.COMMANDS)
