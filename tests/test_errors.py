import ast
import dataclasses
from pathlib import Path

import pytest

from jaxtl import config
from jaxtl.commands import predict
from jaxtl.errors import UserError, writing
from jaxtl.main import main
from jaxtl.models.base import ModelOptions


def test_joined_errors_ask_to_change_what_each_of_them_does():
    joined = UserError.join(
        [UserError("one", arguments=["data_dir", "val"]), UserError("two"), UserError("three", arguments=["val"])],
        "a last line",
    )
    assert str(joined) == "one\ntwo\nthree\na last line"
    assert joined.arguments == ("data_dir", "val")


def test_what_the_system_refuses_becomes_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "missing" / "metrics.jsonl"
    with (
        pytest.raises(UserError, match=r"metrics.jsonl cannot be written: No such file or directory; make room"),
        writing(path),
    ):
        path.write_text("")


def test_main_adds_the_keys_that_set_the_arguments(monkeypatch, capsys):
    def fail(*_):
        raise UserError("split 'train' leaves nothing to train on; set val", arguments=["val"])

    monkeypatch.setattr(predict, "main", fail)
    assert main(["predict", "--workdir=run", "photo.jpg"]) == 1
    assert capsys.readouterr().err == (
        "error: split 'train' leaves nothing to train on; set val\n(set with --config.data.val)\n"
    )


def test_every_argument_that_errors_name_has_a_key():
    named = set()
    for path in (Path(config.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "arguments" and isinstance(node.value, ast.List):
                named |= {each.value for each in node.value.elts if isinstance(each, ast.Constant)}
    assert {"val", "data_dir", "cache_dir"} <= named <= set(config.ARGUMENTS)
    # Of these one is named by its own name, whichever it is.
    options = {option.name for option in dataclasses.fields(ModelOptions)} - {"dtype"}
    assert options <= set(config.ARGUMENTS)
    keys = config.flat(config.default())
    assert [key for key in config.ARGUMENTS.values() if key not in keys] == []
