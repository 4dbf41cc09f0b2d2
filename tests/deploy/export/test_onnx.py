"""Files of ONNX, run by onnxruntime, give what JAX gives; what they cannot hold is named, and nothing is left."""

import importlib.util
import json

import numpy as np
import pytest
from models.test_all_families import NAMES
from programs import CLASSES, RESNET, VIT, odd, program, request
from real_packages import jax2onnx

from jaxtl.deploy.export.onnx import read_notes, run_onnx, save_onnx
from jaxtl.deploy.export.onnx_graph import group_of, layer_of
from jaxtl.deploy.export.program import normalized
from jaxtl.deploy.export.verification import draw_views
from jaxtl.errors import UserError
from jaxtl.models.layers import windows

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")
# Larger than the smallest that the network takes, where 64 pixels are not enough or too many.
SIZES = {"inception_v3": 75, "lenet": 32, "alexnet": 64}


@pytest.fixture(autouse=True)
def _converter():
    jax2onnx()


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0], session


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_onnxruntime_gives_the_logits_of_jax(name, tmp_path):
    model = program(name)
    said = save_onnx(tmp_path / "model.onnx", model, request(model))
    assert said.startswith("onnxruntime ")
    assert "drawn images: on 5 images the largest difference of logits is" in said
    assert "trtexec --onnx=model.onnx --minShapes=image:1x32x32x3 " in said
    assert "not verified" in said
    views = draw_views(32, count=7)
    found, session = run(tmp_path / "model.onnx", normalized(views, model.pixels))
    np.testing.assert_allclose(found, model.reference(views).logits, rtol=0, atol=1e-4)
    given, result = session.get_inputs()[0], session.get_outputs()[0]
    assert (given.name, given.shape, given.type) == ("image", ["B", 32, 32, 3], "tensor(float)")
    assert (result.name, result.shape) == ("logits", ["B", 5])


@pytest.mark.slow
@pytest.mark.parametrize("key", NAMES)
def test_every_family_is_right(key, tmp_path):
    name = NAMES[key]
    size = SIZES.get(key) or (32 if "image_size=32" in name or key == "resnet_cifar" else 64)
    model = program(name, size)
    save_onnx(tmp_path / "model.onnx", model, request(model))
    views = draw_views(size, count=3)
    found, _ = run(tmp_path / "model.onnx", normalized(views, model.pixels))
    expected = model.reference(views).logits
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_pixels_within_take_uint8_and_the_metadata_say_how(tmp_path):
    calibration = {"method": "temperature", "temperature": 2.0, "folded_into_weights": False}
    model = program(calibration=calibration, sigmoid=True)
    save_onnx(tmp_path / "model.onnx", model, request(model, with_pixels=True))
    views = draw_views(32, count=2)
    found, session = run(tmp_path / "model.onnx", views)
    np.testing.assert_allclose(found, model.reference(views).logits, rtol=0, atol=1e-4)
    said = {key.removeprefix("jaxtl."): text for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert json.loads(said["classes"]) == list(CLASSES)
    assert json.loads(said["pixels"]) == model.pixels.to_json()
    assert json.loads(said["calibration"]) == calibration
    assert said["probabilities"] == "sigmoid"
    assert "uint8, normalised within" in said["input"]
    written = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(written, full_check=True)
    notes = read_notes(tmp_path / "model.onnx")
    assert notes.provenance.notes["opset"] == written.opset_import[0].version == 21
    assert notes.provenance.notes["with_pixels"] is True
    np.testing.assert_allclose(
        run_onnx(tmp_path / "model.onnx").logits(notes.reference.views), notes.reference.logits, atol=1e-4
    )


def test_float16_is_half_as_large_and_near(tmp_path):
    model = program(RESNET)
    for dtype in ("float32", "float16"):
        save_onnx(tmp_path / f"{dtype}.onnx", model, request(model, dtype=dtype))
    weights = {
        dtype: sum(len(array.raw_data) for array in onnx.load(str(tmp_path / f"{dtype}.onnx")).graph.initializer)
        for dtype in ("float32", "float16")
    }
    assert weights["float16"] < 0.6 * weights["float32"]
    views = draw_views(32)
    found, session = run(tmp_path / "float16.onnx", normalized(views, model.pixels))
    assert (found.dtype, session.get_inputs()[0].type) == (np.float32, "tensor(float)")
    expected = model.reference(views).logits
    assert 0 < np.abs(found - expected).max() <= 2e-2 * max(1, np.abs(expected).max())
    assert read_notes(tmp_path / "float16.onnx").reference.tolerance == 2e-2


def test_a_conversion_that_goes_wrong_silently_is_caught_and_no_file_is_left(tmp_path, monkeypatch):
    # As before padding was an operation of its own: jax2onnx leaves it out, and says nothing.
    monkeypatch.setattr(windows, "backend", lambda: "cpu")
    model = program(RESNET)
    with pytest.raises(UserError, match=r"^(onnxruntime .* otherwise than JAX: on 5 images|the export gives logits)"):
        save_onnx(tmp_path / "model.onnx", model, request(model))
    assert not list(tmp_path.iterdir())


def test_an_operation_that_onnx_lacks_is_named_with_its_layer_and_group(tmp_path):
    with pytest.raises(UserError, match=r"^ONNX has no pure_callback in body \(group body\), .*Nothing was written\.$"):
        save_onnx(tmp_path / "model.onnx", odd(), request(odd()))
    assert not list(tmp_path.iterdir())


def test_layers_are_named_without_classes_and_methods():
    model = program(RESNET).module
    assert layer_of("ResNet/ResNet.run_group/layer1.0/layer1.0._layer/conv1") == "layer1.0/conv1"
    assert group_of("conv1", model) == model.groups()[0][0]
    assert group_of("", model) == group_of("elsewhere", model) == ""


@pytest.mark.parametrize("lacking", ["onnx", "onnxruntime", "onnx_ir", "jax2onnx"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(lacking, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else find(name))
    with pytest.raises(UserError, match=rf"needs {lacking}, .* installed: pip install 'jaxtl\[onnx\]' && pip"):
        save_onnx(tmp_path / "model.onnx", odd(), request(odd()))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"text\.onnx is no ONNX file|has no provenance"):
        read_notes(tmp_path / "text.onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), tmp_path / "other.onnx"
    )
    with pytest.raises(UserError, match="has no provenance, verification in its metadata"):
        read_notes(tmp_path / "other.onnx")
