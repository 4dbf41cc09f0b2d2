import json

import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.train.log import MetricsLog


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.points, self.images, self.histograms, self.closed = [], [], [], None

    def scalars(self, values, step):
        self.points.append((step, dict(values)))

    def image(self, name, pixels, step):
        self.images.append((step, name, pixels.shape))

    def histogram(self, name, values, step):
        self.histograms.append((step, name, list(values)))

    def close(self, *, hurry=False):
        self.closed = "in a hurry" if hurry else "in time"


def test_lines_after_the_last_checkpoint_are_taken_again(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, "train", {"loss": step / 2})
        log.write(2, "val", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')  # As a process leaves it that is killed while it writes.
    with MetricsLog(tmp_path, from_step=2, evaluated=False) as log:
        log.sync()
        assert [(line["step"], line["split"]) for line in log.kept] == [(1, "train"), (2, "train")]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(1, "train"), (2, "train")]


def test_a_line_that_cannot_be_written_is_told(tmp_path):
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "w")  # noqa: SIM115 - closed by the log.
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: No space left on device; make room"), log:
        log.write(1, "train", {"loss": 1.0})


def test_writers_get_lines_with_speeds_histograms_and_pictures(tmp_path):
    writer = Kept()
    with MetricsLog(tmp_path, writers=[writer]) as log:
        log.write(2, "train", {"loss": 0.5}, {"images_per_second": 9.0})
        log.histograms(2, {"updates/head": np.array([-3.0]), "updates/stem": np.array([])})
        log.pictures(2, {"val/confusion": lambda: np.zeros((2, 3, 3), np.uint8)})
    assert writer.points == [(2, {"train/loss": 0.5, "train/images_per_second": 9.0})]
    assert writer.histograms == [(2, "updates/head", [-3.0])]
    assert writer.images == [(2, "val/confusion", (2, 3, 3))]
    assert writer.closed == "in time"
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2, "split": "train", "loss": 0.5}\n'


def test_pictures_take_a_fiftieth_of_the_time_and_the_last_is_drawn_at_the_end(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("jaxtl.train.log.time.perf_counter", lambda: clock[0])
    writer = Kept()

    def draw():
        clock[0] += 1.0
        return np.zeros((1, 1, 3), np.uint8)

    with MetricsLog(tmp_path, writers=[writer]) as log:
        for step in range(1, 121):
            clock[0] += 1.0
            log.pictures(step, {"val/confusion": draw})
    assert [step for step, *_ in writer.images] == [1, 99, 120]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_that_is_cut_short_draws_nothing_more(tmp_path, error):
    writer = Kept()

    def cut_short():
        with MetricsLog(tmp_path, writers=[writer]) as log:
            log._drawing = 1e9
            log.pictures(1, {"val/confusion": lambda: pytest.fail("drawn")})
            raise error

    with pytest.raises(error):
        cut_short()
    assert (writer.images, writer.closed) == ([], "in a hurry")
