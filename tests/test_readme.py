"""The code in the README is run as it stands."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from jaxtl import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_lines_for_an_own_loop_train_the_head_and_nothing_else(capsys):
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "train_step" in block)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    loss = float(capsys.readouterr().out)
    assert loss < 2.3  # It began at log(10) = 2.303, or above it.
    before, after = names["variables"], names["state"].variables
    for collection, name in (("params", "conv"), ("params", "bn"), ("batch_stats", "bn")):
        for leaf in before[collection][name]:
            np.testing.assert_array_equal(before[collection][name][leaf], after[collection][name][leaf])
    assert not np.array_equal(before["params"]["head"]["bias"], after["params"]["head"]["bias"])


def test_every_command_is_in_the_table():
    from jaxtl.main import COMMANDS

    table = README.split("| command |")[1].split("\n\n")[0]
    assert all(f"| `{name}`" in table for name in COMMANDS), "a command is missing in the README's table"


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("python -m jaxtl.main ")[2] for line in lines if "python -m jaxtl.main " in line]


@pytest.mark.parametrize("line", commands())
def test_the_flags_of_each_command_are_right(line, monkeypatch):
    from jaxtl import command_line

    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    command = words.pop(0) if not words[0].startswith("-") else "train"
    parser = command_line.Parser()
    importlib.import_module(f"jaxtl.commands.{command}").add_arguments(parser)
    overrides, rest = command_line.split_overrides(words, parser)
    arguments = parser.parse_args(rest)
    if getattr(arguments, "config", ""):
        config.load(arguments.config, overrides)


def test_each_test_that_the_readme_names_exists():
    sources = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in sources] == []
