"""Which writers there are, with fakes in the place of those that need a package or a network."""

import importlib.util
import os
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxtl.errors import UserError
from jaxtl.train.writers import choose
from jaxtl.train.writers.base import Run


class Fake:
    """A run on a server."""

    def __init__(self, run):
        if run.project == "down":
            raise ConnectionError("nobody answers\n...")
        self.id, self.place = run.ids.get("wandb", "new"), "https://here"

    def close(self, *, hurry=False):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(choose, "_REMOTE", {"wandb": (Fake, ("no_such_package",), "log in")})


def test_names_are_read_once_each():
    assert choose.parse_names(" wandb,tensorboard,, wandb ") == ["wandb", "tensorboard"]
    assert choose.parse_names("") == []


@pytest.mark.usefixtures("fake")
def test_a_package_that_is_missing_is_told_with_what_installs_it():
    choose.check_installed(["tensorboard"])
    with pytest.raises(UserError, match=r"no_such_package is not installed: pip install 'jaxtl\[wandb\]'"):
        choose.check_installed(["tensorboard", "wandb"])


@pytest.mark.usefixtures("fake")
def test_a_run_keeps_its_name_on_the_server(tmp_path, capsys):
    writers, ids = choose.open_writers(["wandb"], Run(tmp_path, "demo", "jaxtl", ids={"wandb": "abc"}), begun=True)
    for writer in writers:
        writer.close()
    assert ids == {"wandb": "abc"}
    assert capsys.readouterr().out == "wandb     https://here\n"


@pytest.mark.usefixtures("fake")
def test_a_server_that_is_down_is_an_error_at_the_beginning_and_a_note_later(tmp_path, capsys):
    run = Run(tmp_path, "demo", "down")
    with pytest.raises(UserError, match=r"wandb cannot be written to: nobody answers; log in\."):
        choose.open_writers(["tensorboard", "wandb"], run, begun=False)
    assert choose.open_writers(["wandb"], run, begun=True) == ([], {})
    assert "note: wandb cannot be written to: nobody answers; the run goes on without it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(UserError, match="events cannot be written: File exists"):
        choose.open_writers(["tensorboard"], Run(tmp_path, "demo", "jaxtl"), begun=False)


@pytest.mark.parametrize(("name", "packages"), [(name, needed) for name, (_, needed, _) in choose._REMOTE.items()])
def test_each_extra_installs_what_its_writer_imports(name, packages):
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {line.split(">")[0].removesuffix("-skinny") for line in extras[name]} == set(packages)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_packages_keep_what_they_are_given(tmp_path, name):
    """In a process of its own: both leave threads and settings behind."""
    if missing := [one for one in choose._REMOTE[name][1] if importlib.util.find_spec(one) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed: pip install 'jaxtl[{name}]'")
    database = tmp_path / "mlflow.db"
    settings = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    given = [sys.executable, "-c", _WRITE, name, str(tmp_path)]
    for _ in range(2):  # The second goes on with the first.
        done = subprocess.run(
            given, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "note:" not in done.stderr
    if name == "mlflow":
        with sqlite3.connect(database) as opened:
            points = opened.execute("select key, value, step from metrics order by step, key").fetchall()
            names = opened.execute("select name, status from runs").fetchall()
        assert ("val/loss", 0.5, 3) in points
        assert ("updates/head/median", -2.0, 3) in points
        assert names == [("demo", "FINISHED")]
        assert list(tmp_path.rglob("*confusion*.png"))
    else:
        first, second = sorted((tmp_path / "wandb").glob("offline-run-*"))
        assert first.name.split("-")[-1] == second.name.split("-")[-1]
        for folder in (first, second):
            (kept,) = folder.glob("*.wandb")
            assert b"val/loss" in kept.read_bytes()
            assert list(folder.rglob("confusion*.png"))


_WRITE = """
import json, sys, time
from pathlib import Path
import numpy as np
from jaxtl.train.writers.base import Run
from jaxtl.train.writers.choose import open_writers

name, folder = sys.argv[1], Path(sys.argv[2])
ids = folder / "ids.json"
begun = ids.exists()
if begun:
    time.sleep(1.1)  # W&B names folders by the second.
run = Run(folder, "demo", "jaxtl", config={"train.seed": 0}, ids=json.loads(ids.read_text()) if begun else {})
(writer,), found = open_writers([name], run, begun=begun)
ids.write_text(json.dumps(found))
writer.scalars({"val/loss": 0.5}, 3)
writer.image("val/confusion", np.zeros((4, 6, 3), np.uint8), 3)
writer.histogram("updates/head", np.array([-3.0, -2.0, -1.0]), 3)
writer.close()
"""
