"""The calibration of a run: what is written, what is read again, and what is wrong with either."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from jaxtl import config as config_lib
from jaxtl.errors import UserError
from jaxtl.evaluate.predictions import as_arrays
from jaxtl.evaluate.scaling import Scaling, fit_temperature, fit_vector_scaling, quality
from jaxtl.experiment import calibrating
from jaxtl.experiment.calibrating import Calibration, calibrate, check_fits, find_calibration, read_calibration
from jaxtl.experiment.measuring import Measured


def predictions(split, count=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    logits = (4 * (np.eye(3)[labels] + rng.normal(size=(count, 3)))).astype(np.float32)
    return as_arrays(split, [f"{split}{i}" for i in range(count)], labels, logits)


def measured():
    return {name: Measured({}, predictions(name, seed=seed)) for seed, name in enumerate(("val", "test"))}


def write(workdir, *, config=None, classes=tiny.CLASSES, splits=("val", "test"), count=60):
    """Writes what a run leaves that trained before there was calibration."""
    arrays = {key: array for split in splits for key, array in predictions(split, count).items()}
    np.savez(workdir / "predictions.npz", classes=np.array(classes), **arrays)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config or tiny.config())))
    (workdir / "results.json").write_text(json.dumps({"best_step": 7}))


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_all_numbers_can_be_computed_again_from_the_predictions(tmp_path, method):
    experiment, found = tiny.experiment(tiny.config(eval__calibration=method)), measured()
    results = calibrate(experiment, tmp_path, found, step=5)["calibration"]
    written = json.loads((tmp_path / "calibration.json").read_text())
    arrays = found["val"].arrays
    fitting = fit_vector_scaling if method == "vector" else fit_temperature
    scaling = fitting(arrays["val_labels"], arrays["val_logits"])
    assert read_calibration(tmp_path) == Calibration(scaling, 60, 5)
    assert (written["method"], written["fitted_on"], written["count"], written["step"]) == (method, "val", 60, 5)
    assert ("scale" in written) == (method == "vector")
    for split in ("val", "test"):
        kept = found[split].arrays[f"{split}_labels"], found[split].arrays[f"{split}_logits"]
        for when, how in (("before", None), ("after", scaling)):
            expected = quality(*kept, how, sigmoid=False)
            reliability = written[split][when].pop("reliability")
            assert written[split][when] == results[split][when] == expected.summary()
            assert reliability == expected.reliability.to_json()
        assert results[split]["after"]["log_loss"] < results[split]["before"]["log_loss"]
    assert results["temperature"] == scaling.temperature > 1
    assert set(results) == {"method", "temperature", "note", "fitted_on", "count", "val", "test"}


def test_what_is_not_asked_for_or_has_no_logits_is_not_fitted(tmp_path):
    found = measured()
    assert calibrate(tiny.experiment(tiny.config(eval__calibration="none")), tmp_path, found, step=5) == {}
    found["val"] = Measured({})
    assert calibrate(tiny.experiment(tiny.config()), tmp_path, found, step=5) == {}
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrating.files.processes, "is_main", lambda: False)
    assert calibrate(tiny.experiment(tiny.config()), tmp_path, measured(), step=5)
    assert not list(tmp_path.iterdir())


def test_sigmoids_are_calibrated_as_such(tmp_path):
    experiment, found = dataclasses.replace(tiny.experiment(tiny.config()), loss_name="binary"), measured()
    results = calibrate(experiment, tmp_path, found, step=5)["calibration"]
    arrays = found["val"].arrays
    expected = fit_temperature(arrays["val_labels"], arrays["val_logits"], sigmoid=True)
    assert results["temperature"] == expected.temperature
    # A run of before finds the same by itself.
    write(tmp_path, config=tiny.config(train__loss="binary"))
    (tmp_path / "calibration.json").unlink()
    assert find_calibration(tmp_path) == Calibration(expected, 60, 7)


def test_a_run_without_one_gets_a_temperature_and_it_is_said(tmp_path, capsys):
    write(tmp_path)
    arrays = predictions("val")
    found = find_calibration(tmp_path)
    assert found == Calibration(fit_temperature(arrays["val_labels"], arrays["val_logits"]), 60, 7)
    assert capsys.readouterr().err == (
        f"note: {tmp_path} has no calibration.json, so one was fitted now: temperature "
        f"{found.scaling.temperature:#.3g} of the 60 images of val in predictions.npz\n"
    )
    assert not (tmp_path / "calibration.json").exists()


def test_what_is_wrong_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*config\.json: give the --workdir of a run that has trained"):
        find_calibration(tmp_path)
    write(tmp_path)
    (tmp_path / "predictions.npz").unlink()
    with pytest.raises(UserError, match=r"no predictions\.npz to fit one from: its logits on val were not kept"):
        find_calibration(tmp_path)
    (tmp_path / "results.json").unlink()
    with pytest.raises(UserError, match="is not finished: its calibration is fitted at its end"):
        find_calibration(tmp_path)
    (tmp_path / "predictions.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"predictions\.npz cannot be read"):
        find_calibration(tmp_path)
    write(tmp_path, splits=("test",))
    with pytest.raises(UserError, match="has no images of val; it has test"):
        find_calibration(tmp_path)
    write(tmp_path, count=0)
    with pytest.raises(UserError, match="has no images of val; it has val, test"):
        find_calibration(tmp_path)
    write(tmp_path, classes=("red", "green"))
    with pytest.raises(UserError, match="is damaged: the logits, labels and classes of val do not fit"):
        find_calibration(tmp_path)
    for text in ('{"method": "temperature", "temperature": 0, "count": 3, "step": 1}', "{}", "[]"):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(UserError, match=r"calibration\.json is not as train writes it"):
            find_calibration(tmp_path)


def test_it_is_of_its_classes_and_its_checkpoint(tmp_path):
    one = Calibration(Scaling(1.0, (1.0, 2.0), (0.0, 0.0)), 60, 5)
    assert check_fits(one, tmp_path, classes=2, step=5) is one
    with pytest.raises(UserError, match="is for 2 classes, the model has 3"):
        check_fits(one, tmp_path, classes=3, step=5)
    with pytest.raises(UserError, match="was fitted at step 5, but the best checkpoint there is of step 6 now"):
        check_fits(one, tmp_path, classes=2, step=6)
    assert check_fits(dataclasses.replace(one, step=None), tmp_path, classes=2, step=6)
