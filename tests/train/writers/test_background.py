import threading

import pytest

from jaxtl.train.writers import background
from jaxtl.train.writers.background import InBackground


class Server:
    """A writer that fails, or waits, as a server may."""

    def __init__(self, *, fails=(), waits=None):
        self.points, self.closed, self._fails, self._waits = [], None, fails, waits

    def scalars(self, values, step):
        if self._waits is not None:
            self._waits.wait(10)
        if step in self._fails:
            raise ConnectionError("no route to host\nand more")
        self.points.append((step, values))

    def close(self, *, hurry=False):
        self.closed = hurry


def test_what_fails_is_noted_once_and_the_rest_arrives(capsys):
    server = Server(fails=(2, 3))
    writer = InBackground(server, "mlflow")
    for step in (1, 2, 3, 4):
        writer.scalars({"val/loss": 1.0}, step)
    writer.close()
    assert [step for step, _ in server.points] == [1, 4]
    assert server.closed is False
    note = "note: mlflow: something could not be sent: no route to host; metrics.jsonl has all lines\n"
    assert capsys.readouterr().err == note


@pytest.mark.parametrize(("room", "note"), [(1, "it does not keep up"), (1000, "not all was sent")])
def test_a_server_that_does_not_answer_holds_nobody_up(capsys, monkeypatch, room, note):
    monkeypatch.setattr(background, "_WAITING", room)
    monkeypatch.setattr(background, "_HURRY", 0.01)
    answers = threading.Event()
    writer = InBackground(Server(waits=answers), "wandb")
    for step in range(5):
        writer.scalars({"val/loss": 1.0}, step)
    writer.close(hurry=True)
    answers.set()
    assert capsys.readouterr().err.count(f"note: wandb: {note}") == 1
