"""A finished run that is started again: its calibration, and the page that it lacks."""

import json

import pytest
import tiny
from compared import write_run

from jaxtl import config as config_lib
from jaxtl.evaluate.predictions import read_predictions
from jaxtl.evaluate.scaling import Scaling, fit_vector_scaling
from jaxtl.experiment import finished
from jaxtl.experiment.calibrating import recalibrate


@pytest.fixture
def run(tmp_path):
    workdir = write_run(tmp_path / "run")
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(tiny.config())))
    recalibrate(workdir, "temperature")
    return workdir


def config(**values):
    made = tiny.config()
    made.data.source = ""
    made.eval.report = False
    made.eval.update(values)
    return made


def test_another_calibration_is_fitted_from_the_predictions(run, capsys):
    before = json.loads((run / "results.json").read_text())
    assert finished.complete(config(), run) == before
    assert "its calibration" not in capsys.readouterr().out
    results = finished.complete(config(calibration="vector"), run)
    val = read_predictions(run / "predictions.npz")[1]["val"]
    written = json.loads((run / "calibration.json").read_text())
    assert Scaling.from_json(written) == fit_vector_scaling(val.labels, val.logits)
    assert (written["step"], written["count"]) == (before["best_step"], len(val.labels))
    assert results == json.loads((run / "results.json").read_text())
    assert results["calibration"]["method"] == "vector"
    assert {**results, "calibration": None} == {**before, "calibration": None}
    assert "its calibration was fitted anew, from predictions.npz: vector scaling" in capsys.readouterr().out
    finished.complete(config(calibration="none"), run)
    assert "its calibration.json stays" in capsys.readouterr().out
    (run / "predictions.npz").unlink()
    assert finished.complete(config(), run) == results
    assert "its calibration stays as it was: there is no" in capsys.readouterr().out


def test_a_run_that_lacks_its_page_gets_it(run, monkeypatch):
    written = []
    monkeypatch.setattr(finished, "write_report", written.append)
    finished.complete(config(), run)
    assert written == []  # It is not asked for.
    finished.complete(config(report=True), run)
    assert written == [run]
    (run / "report").mkdir()
    (run / "report" / "index.html").touch()
    finished.complete(config(report=True), run)
    assert written == [run]
    finished.complete(config(report=True, calibration="vector"), run)  # The page shows the calibration.
    assert written == [run, run]
