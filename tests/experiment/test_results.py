from pathlib import Path

from jaxtl.experiment.build import build
from jaxtl.experiment.results import closing_lines, never_predicted, report, results_of
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
    assert (found["stopped_early"], found["steps_per_epoch"]) == ("", 0.0)
    progress.waited = 1
    assert results_of(experiment, 2, progress)["stopped_early"] == (
        "early, at step 2 of 3: no higher accuracy on val in 1 evaluations"
    )


def test_the_last_lines_of_a_run(tmp_path, capsys):
    metrics = {"accuracy": 0.5, "accuracy_interval": [0.215, 0.785], "f1": 0.25, "loss": 1.5, "count": 8}
    results = {
        "val": metrics,
        "test": {**metrics, "top5": 1.0},
        "best_step": 20,
        "steps": 30,
        "steps_per_epoch": 9.5,
        "stopped_early": "early, at step 30 of 60: no higher accuracy on val in 1 evaluations since step 20",
        "monitor": "accuracy",
        "seconds": {"total": 189.6, "train": 4.0, "data": 1.0},
        "train": {"images_per_second": 6.0},
    }
    assert report(results, tmp_path) is results
    assert capsys.readouterr().out.splitlines() == [
        "val       accuracy 50.0 % of 8 images (95 % interval 22 to 78)  F1 25.0 %  loss 1.5000",
        "test      accuracy 50.0 % of 8 images (95 % interval 22 to 78)  top-5 100.0 %  F1 25.0 %  loss 1.5000",
        "best      step 20 of 30 (epoch 3), by accuracy on val",
        "stopped   early, at step 30 of 60: no higher accuracy on val in 1 evaluations since step 20",
        "time      3 min 10 s in all; 6.0 images/s in training, at most 25.0 % of it waiting for data",
        f"results   {tmp_path / 'results.json'}",
        f"next      python -m jaxtl.main predict --workdir={tmp_path} PHOTO_OR_FOLDER",
    ]


def test_details_are_told_of_the_last_split():
    intervals = {key: [0.25, 0.75] for key in ("balanced_accuracy", "macro_f1", "log_loss", "ece")}
    metrics = {"accuracy": 0.5, "f1": 0.25, "loss": 1.5, "count": 30, "balanced_accuracy": 0.5, "macro": {"f1": 0.25}}
    metrics |= {"log_loss": 1.5, "ece": 0.125, "intervals": intervals}
    results = {"best_step": 1, "steps": 1, "monitor": "loss", "seconds": {"total": 1.0, "train": 1.0}}
    results |= {"train": {"images_per_second": 1.0}, "val": metrics, "test": metrics}
    lines = closing_lines(results, Path("run"))
    assert [line[:9].strip() for line in lines[:4]] == ["val", "test", "", "best"]
    assert lines[2] == (
        "          balanced accuracy 50.0 % (25 to 75)  macro F1 25.0 % (25 to 75)  log loss 1.5000 (0.250 to 0.750)  "
        "ECE 12.5 % (25 to 75)"
    )
    del results["test"]
    assert closing_lines(results, Path("run"))[1] == lines[2]
    metrics["count"] = 29
    assert closing_lines(results, Path("run"))[1].startswith("best")


def test_runs_of_before_have_no_time_of_waiting(tmp_path, capsys):
    results = {"best_step": 1, "steps": 1, "monitor": "loss", "seconds": {"total": 1.0, "train": 1.0}}
    report({**results, "train": {"images_per_second": 1.0}}, tmp_path)
    assert "waiting" not in capsys.readouterr().out


def test_classes_that_are_never_predicted_are_named(tmp_path):
    test = {"accuracy": 0.5, "f1": 0.3, "loss": 1.0, "count": 8, "per_class": {"daisy": {}, "iris": {}, "rose": {}}}
    test["confusion_matrix"] = [[0, 4, 0], [0, 4, 0], [0, 0, 0]]
    assert never_predicted(test) == ["daisy"]  # There is no rose in the test.
    results = {"test": test, "best_step": 1, "steps": 1, "monitor": "loss", "seconds": {"total": 1.0, "train": 1.0}}
    lines = closing_lines({**results, "train": {"images_per_second": 1.0}}, tmp_path)
    assert lines[1] == "never     predicted on test: daisy"


def test_what_calibration_does_is_told_of_enough_images():
    metrics = {"accuracy": 0.5, "f1": 0.25, "loss": 1.5, "count": 30}
    results = {"best_step": 1, "steps": 1, "monitor": "loss", "seconds": {"total": 1.0, "train": 1.0}}
    results |= {"train": {"images_per_second": 1.0}, "val": metrics}
    ece = {"before": {"ece": 0.062}, "after": {"ece": 0.031}}
    found = {"method": "temperature", "temperature": 1.3149, "note": "", "fitted_on": "val", "count": 30, "val": ece}
    results["calibration"] = found
    lines = closing_lines(results, Path("run"))
    assert lines[1] == "calibrated temperature 1.31 fitted on val: ECE on val 6.2 -> 3.1 %"
    found |= {"method": "vector", "test": ece, "note": "so"}
    assert closing_lines(results, Path("run"))[1] == (
        "calibrated a scale and a bias for each class fitted on val (so): ECE on test 6.2 -> 3.1 %"
    )
    ece["before"]["log_loss"], ece["after"]["log_loss"] = 0.1418, 1.4432
    assert closing_lines(results, Path("run"))[1].endswith(
        ": ECE on test 6.2 -> 3.1 %; worse on test: log loss 0.1418 -> 1.443; predict without --calibrated"
    )
    found["count"] = 29
    assert closing_lines(results, Path("run"))[1].startswith("best")
