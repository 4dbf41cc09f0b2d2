import json
import time

from jaxtl.train.progress import Progress


def test_the_seconds_of_all_processes_are_counted():
    first = Progress()
    first.began = time.perf_counter() - 100
    second = Progress(**first.to_json())  # As a checkpoint keeps it.
    second.began = time.perf_counter() - 20
    third = Progress(**second.to_json())
    third.began = time.perf_counter() - 3
    assert 123 <= third.total() < 124
    assert "began" not in third.to_json()


def test_the_parts_are_all_of_the_time(monkeypatch):
    times = iter([3.0, 4.5, 10.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    progress = Progress(seconds={"total": 100.0, "train": 50.0}, began=0.0, counted=0.0)  # From before there were more.
    progress.begin(1.0)
    for part in ("start", "checkpoint", "train"):
        progress.spend(part)
    assert progress.seconds == {"total": 100.0, "train": 55.5, "start": 2.0, "checkpoint": 1.5}
    assert progress.total() == 109.0


def test_a_checkpoint_keeps_everything_but_the_clock():
    progress = Progress(
        window={"loss": 1.5, "steps": 3}, val={"accuracy": 0.75}, averaged=True, best_step=8, waited=1, images=96
    )
    kept = json.loads(json.dumps(progress.to_json()))
    seconds = kept.pop("seconds")
    assert seconds.pop("total") >= 0
    parts = ("start", "features", "compile", "train", "evaluate", "checkpoint", "data")
    assert seconds == dict.fromkeys(parts, 0.0)
    assert kept == {
        "window": {"loss": 1.5, "steps": 3},
        "train": {},
        "val": {"accuracy": 0.75},
        "both": {},
        "averaged": True,
        "best_step": 8,
        "waited": 1,
        "finished": False,
        "due": False,
        "images": 96,
        "costs": {},
        "skipped": 0,
        "skipped_in_a_row": 0,
    }


def test_what_a_checkpoint_keeps_does_not_change_with_the_run():
    progress = Progress(window={"loss": 1.0})
    kept = progress.to_json()
    progress.window["loss"], progress.seconds["train"] = 2.0, 5.0
    assert (kept["window"], kept["seconds"]["train"]) == ({"loss": 1.0}, 0.0)
    assert Progress().window == {}
