"""The plan of the house: a file imports only from its own folder and from folders above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxtl"
ORDER = ("models", "weights", "data", "evaluate", "train", "deploy")
LEAVES = ("allocator", "errors", "gpu_flags", "preprocessing", "stacks", "sharding", "parallel", "distributed")
# These see a config: they come after all folders.
LAST = ("validation", "config", "commands", "main")
FILES = sorted(ROOT.rglob("*.py"))


def rank(module: str) -> int:
    return ORDER.index(module) if module in ORDER else len(ORDER) + LAST.index(module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_above(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    if own == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "jaxtl" else [base]
        for name in names:
            if not name.startswith("jaxtl."):
                continue
            other = name.split(".")[1]
            if other in (*LEAVES, "__version__"):
                continue
            assert own not in LEAVES, f"{path}: {own} is a leaf, but imports jaxtl.{other}"
            assert rank(other) <= rank(own), f"{path}:{node.lineno} imports jaxtl.{other}, which comes later"


def test_only_commands_see_a_config():
    allowed = {ROOT / "config.py", *(ROOT / "commands").glob("*.py")}
    seeing = {path for path in FILES if "ml_collections" in path.read_text()}
    assert seeing <= allowed


def test_nothing_but_one_module_touches_orbax():
    touching = {path.relative_to(ROOT) for path in FILES if "import orbax." in path.read_text()}
    assert touching == {Path("weights/orbax_io.py")}
