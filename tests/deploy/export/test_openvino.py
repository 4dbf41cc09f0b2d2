import importlib.util
import json

import numpy as np
import pytest
from programs import CLASSES, RESNET, odd, program, request
from real_packages import jax2onnx

from jaxtl.deploy.export.notes import read_notes
from jaxtl.deploy.export.openvino import run_openvino, save_openvino
from jaxtl.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_openvino_gives_the_logits_of_jax(tmp_path):
    openvino = pytest.importorskip("openvino")
    jax2onnx()
    model = program(RESNET)
    said = save_openvino(tmp_path / "model", model, request(model))
    assert said.startswith("OpenVINO ")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("model.bin", "model.json", "model.xml", "provenance.json", "verification.npz")
    ]
    reference = read_notes(tmp_path / "model").reference
    found = run_openvino(tmp_path / "model").logits(reference.views)
    np.testing.assert_allclose(found, model.reference(reference.views).logits, rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["classes"] == list(CLASSES)
    read = openvino.Core().read_model(tmp_path / "model" / "model.xml")
    assert json.loads(read.get_rt_info(["jaxtl", "pixels"]).astype(str)) == model.pixels.to_json()
    assert read.input(0).partial_shape.to_string() == "[?,32,32,3]"


def test_float16_halves_the_weights(tmp_path):
    pytest.importorskip("openvino")
    jax2onnx()
    model = program(RESNET)
    save_openvino(tmp_path / "half", model, request(model, dtype="float16", with_pixels=True))
    save_openvino(tmp_path / "whole", model, request(model))
    half, whole = ((tmp_path / name / "model.bin").stat().st_size for name in ("half", "whole"))
    assert half < 0.55 * whole


def test_without_openvino_the_line_that_installs_it_is_said(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(UserError, match=r"OpenVINO is not installed: pip install 'jaxtl\[openvino\]'"):
        save_openvino(tmp_path / "model", odd(), request(odd()))
    assert not list(tmp_path.iterdir())
