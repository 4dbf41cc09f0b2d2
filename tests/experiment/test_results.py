from jaxtl.experiment.build import build
from jaxtl.experiment.results import report, results_of
from jaxtl.train.progress import Progress


def test_results_hold_what_the_interface_promises(config):
    experiment = build(config, abstract=True)
    progress = Progress()
    progress.best_step, progress.images, progress.train = 2, 24, {"loss": 0.5}
    progress.seconds["train"], progress.val = 4.0, {"accuracy": 0.75}
    progress.costs = {"0": {"step_gflop": 1.5}}
    found = results_of(experiment, 3, progress)
    assert found["parameters"] == {"total": 9_827, "trainable": 9_827, "frozen": 0}
    assert found["train"] == {"images_per_second": 6.0, "loss": 0.5, "skipped": 0}
    assert (found["steps"], found["best_step"], found["monitor"], found["loss"]) == (3, 2, "accuracy", "softmax")
    assert (found["cost"], found["val"]) == ({"step_gflop": 1.5}, {"accuracy": 0.75, "count": 0})
    assert "ema" not in found


def test_the_last_lines_of_a_run(tmp_path, capsys):
    metrics = {"accuracy": 0.5, "top5": 1.0, "f1": 0.25, "loss": 1.5, "count": 8}
    results = {
        "val": metrics,
        "test": metrics,
        "best_step": 2,
        "steps": 3,
        "monitor": "accuracy",
        "seconds": {"total": 9.6, "train": 4.0, "data": 1.0},
        "train": {"images_per_second": 6.0},
    }
    assert report(results, tmp_path) is results
    line = "accuracy 50.00 %  top5 100.00 %  f1 25.00 %  loss 1.5000  on 8 images"
    assert capsys.readouterr().out.splitlines() == [
        f"val    {line}",
        f"test   {line}",
        "best step 2 of 3, by accuracy on val; 10 s in all; 6.0 images/s in training, at most 25.0 % of it waiting for "
        f"data; {tmp_path / 'results.json'}",
    ]


def test_runs_of_before_have_no_time_of_waiting(tmp_path, capsys):
    results = {"best_step": 1, "steps": 1, "monitor": "loss", "seconds": {"total": 1.0, "train": 1.0}}
    report({**results, "train": {"images_per_second": 1.0}}, tmp_path)
    assert "waiting" not in capsys.readouterr().out
