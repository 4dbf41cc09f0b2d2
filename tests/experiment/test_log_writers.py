"""What a run shows while it trains, and that showing it changes nothing that it computes."""

import json

import numpy as np
import pytest
import tiny
from tensorboardX.proto.event_pb2 import Event

from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.errors import Stopped, UserError
from jaxtl.experiment import log_writers
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end
from jaxtl.train.writers import choose
from jaxtl.trees import flatten


class Remote:
    """A server's run, which keeps the ids and points that it was given."""

    runs, points = [], []

    def __init__(self, run):
        self.id, self.place = run.ids.get("wandb", "abc"), "nowhere"
        Remote.runs.append(dict(run.ids))

    def scalars(self, values, step):
        Remote.points.append(step)
        raise ConnectionError("the network is gone")

    image = histogram = lambda self, name, values, step: None

    def close(self, *, hurry=False):
        pass


def train(config, workdir, stop_at=0):
    workdir.mkdir(exist_ok=True)
    questions = iter(range(1, 1000))
    started = start_run(tiny.experiment(config), workdir)
    return train_to_end(started, workdir, started=0.0, stop=lambda: next(questions) == stop_at)


def tags(workdir):
    """Returns (step, tag) of what is no curve in the newest event file."""
    path = max((workdir / "events").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data, at, found = path.read_bytes(), 0, set()
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found |= {(event.step, v.tag) for v in event.summary.value if v.WhichOneof("value") != "simple_value"}
        at += 16 + size
    return found


def end_of(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return flatten(checkpoints.read_variables(checkpoints.steps()[-1]))


def test_a_run_shows_pictures_and_update_sizes_and_computes_the_same_without(tmp_path):
    keys = {"train__steps": 4, "train__eval_every": 2}
    train(tiny.config(**keys), tmp_path / "shown")
    shown = tags(tmp_path / "shown")
    assert {(step, f"updates/{group}") for step in (2, 4) for group in ("stem", "body", "head")} <= shown
    assert (4, "val/confusion") in shown
    train(tiny.config(**keys, log__to=""), tmp_path / "not")
    assert not (tmp_path / "not" / "events").exists()
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("shown", "not")]
    assert lines[0] == lines[1]
    shown, hidden = end_of(tmp_path / "shown"), end_of(tmp_path / "not")
    assert shown.keys() == hidden.keys()
    for path, values in shown.items():
        np.testing.assert_array_equal(values, hidden[path])


def test_a_server_that_fails_ends_no_run_and_knows_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choose, "_REMOTE", {"wandb": (Remote, (), "log in")})
    config = tiny.config(log__to="wandb", train__steps=4, train__eval_every=2)
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop_at=1)
    assert json.loads((tmp_path / "run" / "log.json").read_text()) == {"wandb": "abc"}
    train(config, tmp_path / "run")
    assert Remote.runs == [{}, {"wandb": "abc"}]
    assert max(Remote.points) == 4
    assert capsys.readouterr().err.count("note: wandb: something could not be sent: the network is gone") == 2


def test_a_package_that_is_missing_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "_REMOTE", {"wandb": (Remote, ("no_such_package",), "log in")})
    with pytest.raises(UserError, match="no_such_package is not installed"):
        start_run(tiny.experiment(tiny.config(log__to="wandb")), tmp_path)


def test_writers_are_named_after_the_workdir(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        choose, "open_writers", lambda names, run, begun: (asked.append((names, run, begun)), ([], {}))[1]
    )
    log_writers.open_writers(tiny.experiment(tiny.config(log__to="tensorboard, wandb")), tmp_path, done=3)
    ((names, run, begun),) = asked
    assert (names, run.name, run.project, run.from_step, begun) == (
        ["tensorboard", "wandb"],
        tmp_path.name,
        "jaxtl",
        4,
        True,
    )
    assert run.config["optimizer.learning_rate"] == 0.1
