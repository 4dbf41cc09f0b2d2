import json

import numpy as np
import pytest
import tiny

from jaxtl.errors import UserError
from jaxtl.evaluate.predictions import as_arrays
from jaxtl.evaluate.scaling import fit_temperature, quality
from jaxtl.experiment.calibrating import Calibration
from jaxtl.experiment.calibration_charts import calibration_charts


def write(workdir, count=60):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    logits = (3 * (np.eye(3)[labels] + rng.normal(size=(count, 3)))).astype(np.float32)
    arrays = as_arrays("test", [f"image {i}" for i in labels], labels, logits)
    np.savez(workdir / "predictions.npz", classes=np.array(tiny.CLASSES), **arrays)
    return arrays["test_labels"], arrays["test_logits"]


def test_before_and_after_calibration_if_there_is_one(tmp_path):
    assert calibration_charts(tmp_path, "test", sigmoid=False) == []
    kept = write(tmp_path)
    assert calibration_charts(tmp_path, "val", sigmoid=False) == []
    before = f"as trained: ECE {100 * quality(*kept, sigmoid=False).ece:.1f} %"
    reliability, coverage = calibration_charts(tmp_path, "test", sigmoid=False)
    assert before in reliability
    assert "calibrated: ECE" not in reliability
    assert "confidence: AURC" in coverage
    assert "energy: AURC" in coverage
    scaling = fit_temperature(*kept)
    (tmp_path / "calibration.json").write_text(json.dumps(Calibration(scaling, 60, 5).to_json()))
    reliability, _ = calibration_charts(tmp_path, "test", sigmoid=False)
    assert before in reliability
    assert f"calibrated: ECE {100 * quality(*kept, scaling, sigmoid=False).ece:.1f} %" in reliability


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    write(tmp_path)
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(UserError, match=r"calibration\.json is not as train writes it"):
        calibration_charts(tmp_path, "test", sigmoid=False)
