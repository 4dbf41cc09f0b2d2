"""A bundle gives what JAX gives, in a folder or zipped, where there is nothing but jax and numpy."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import CLASSES, RESNET, program, request

from jaxtl import data, pretrained
from jaxtl.compress.quantization import with_rounded_kernels
from jaxtl.deploy.export import bundle_reader as reader
from jaxtl.deploy.export.bundle import read_notes, run_bundle, save_bundle
from jaxtl.deploy.export.verification import draw_views
from jaxtl.errors import UserError
from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.scaling import Scaling
from jaxtl.preprocessing import Pixels
from jaxtl.trees import flatten

# What jax brings, and Pillow. Nothing else is in the environment that a bundle is tried in.
ALONE = ("jax", "jaxlib", "ml_dtypes", "numpy", "numpy.libs", "opt_einsum", "scipy", "scipy.libs", "PIL", "pillow.libs")


@pytest.fixture(scope="module")
def resnet():
    return program(RESNET, calibration={**Scaling(2.0).to_json(), "folded_into_weights": False})


@pytest.fixture(scope="module")
def bundle(resnet, tmp_path_factory):
    pytest.importorskip("flatbuffers")
    folder = tmp_path_factory.mktemp("bundle") / "flowers"
    save_bundle(folder, resnet, request(resnet, format="bundle"))
    return folder


def test_a_bundle_gives_the_logits_of_jax_for_any_number_of_views(bundle, resnet):
    opened = reader.Bundle(bundle)
    for count in (1, 5):
        views = draw_views(32, count=count)
        np.testing.assert_allclose(opened.logits(views, 3), resnet.reference(views).logits, rtol=0, atol=1e-4)
    assert opened.logits(views[:0]).shape == (0, 5)
    assert opened.facts["classes"] == list(CLASSES)
    assert opened.facts["platforms"] == ["cpu", "cuda", "tpu"]
    assert opened.verify()[1]


@pytest.mark.parametrize(("form", "dtype"), [("int8", np.int8), ("int4", np.uint8)])
def test_the_kernels_of_a_quantized_model_lie_in_few_bits_and_give_its_logits(form, dtype, tmp_path):
    pytest.importorskip("flatbuffers")
    drawn = program(f"{RESNET},quantized={form}")
    module = drawn.module
    rounded = replace(drawn, variables=with_rounded_kernels(drawn.variables, form, module.precise_kernels()))
    save_bundle(tmp_path / "small", rounded, request(rounded, format="bundle"))
    arrays = reader.read_arrays((tmp_path / "small" / "model.safetensors").read_bytes())
    kernels = {name: array.dtype for name, array in arrays.items() if name.endswith("kernel/values")}
    assert kernels["quantized/layer1.0/conv1/kernel/values"] == dtype
    assert not any(name.startswith("params/") and name.endswith("kernel") for name in arrays)
    views = draw_views(32, count=3)
    found = reader.Bundle(tmp_path / "small").logits(views)
    np.testing.assert_allclose(found, rounded.reference(views).logits, rtol=0, atol=1e-4)


def test_jaxtl_opens_the_weights_of_a_bundle_and_its_notes(bundle, resnet):
    opened = pretrained.open_weights(str(bundle / "model.safetensors"))
    assert opened.classes == CLASSES
    arrays = reader.read_arrays((bundle / "model.safetensors").read_bytes())
    expected = flatten(resnet.variables)
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert read_notes(bundle).provenance.notes["platforms"] == ["cpu", "cuda", "tpu"]


def test_probabilities_are_calibrated_where_that_is_asked_for(bundle):
    logits = np.random.default_rng(0).normal(size=(3, 5))
    opened = reader.Bundle(bundle)
    np.testing.assert_allclose(opened.probabilities(logits), to_probabilities(logits, sigmoid=False), rtol=1e-6)
    halved = opened.probabilities(logits, calibrated=True)
    np.testing.assert_allclose(halved, to_probabilities(logits / 2, sigmoid=False), rtol=1e-6)
    vector = Scaling(1.0, (1.0, 2.0, 1.0, 0.5, 1.0), (0.0, 1.0, 0.0, 0.0, -1.0))
    opened.facts["calibration"] = {**vector.to_json(), "folded_into_weights": False}
    opened.facts["probabilities"] = "sigmoid"
    found = opened.probabilities(logits, calibrated=True)
    np.testing.assert_allclose(found, to_probabilities(vector.apply(logits), sigmoid=True), rtol=1e-6)
    opened.facts["calibration"] |= {"folded_into_weights": True}
    found = opened.probabilities(logits, calibrated=True)
    np.testing.assert_allclose(found, to_probabilities(logits, sigmoid=True), rtol=1e-6)


def test_several_labels_are_those_above_their_thresholds(bundle, tmp_path, monkeypatch):
    Image.new("RGB", (40, 32), (200, 30, 90)).save(tmp_path / "a.png")
    opened = reader.Bundle(bundle)
    names = opened.facts["classes"]
    cuts = dict(zip(names, (0.9, 0.7, 0.2, 0.5), strict=False))  # The fifth has none of its own: 0.5.
    opened.facts["calibration"] = {"sigmoid": True, "several_labels": True, "thresholds": cuts}
    opened.facts["probabilities"] = "sigmoid"
    logits = np.array([[2.0, 1.0, -1.0, -0.1, 0.1]])  # Sigmoids 0.88, 0.73, 0.27, 0.48, 0.52.
    monkeypatch.setattr(opened, "logits", lambda views: logits)
    line = reader._line(opened, str(tmp_path / "a.png"), calibrated=False)
    assert line["labels"] == [names[i] for i in (1, 4, 2)]
    assert "class" not in line
    assert [each["class"] for each in line["top5"]] == [names[i] for i in (0, 1, 4, 3, 2)]
    monkeypatch.setattr(opened, "logits", lambda views: np.where(logits > 1, np.nan, logits))
    line = reader._line(opened, str(tmp_path / "a.png"), calibrated=False)
    assert line["error"] == "its logits are not finite: the bundle is damaged"


def test_a_damaged_bundle_is_one_line(bundle, tmp_path, monkeypatch, capsys):
    broken = shutil.copytree(bundle, tmp_path / "mine")
    (broken / "program.jax").write_bytes(b"none")
    monkeypatch.setattr(reader, "__file__", str(broken / "predict.py"))
    with pytest.raises(SystemExit, match=r"^error: this bundle cannot be read: "):
        reader.main(["photo.jpg"])
    (broken / "bundle.json").unlink()
    with pytest.raises(SystemExit, match=r"^error: this bundle cannot be read: "):
        reader.main(["--verify"])


@pytest.mark.slow
def test_a_class_whose_name_is_no_utf8_is_kept(resnet, tmp_path):
    pytest.importorskip("flatbuffers")
    names = (os.fsdecode(b"caf\xe9"), *resnet.classes[1:])
    model = replace(resnet, classes=names)
    save_bundle(tmp_path / "mine", model, request(model, format="bundle"))
    assert reader.Bundle(tmp_path / "mine").facts["classes"] == list(names)
    assert pretrained.open_weights(str(tmp_path / "mine" / "model.safetensors")).classes == names


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_views_are_those_of_jaxtl_for_photographs_of_every_kind(tmp_path, interpolation):
    pixels = Pixels(20, 24, (0.5,) * 3, (0.5,) * 3, interpolation)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (37, 51, 4), dtype=np.uint8)
    images = {
        "rgb.png": Image.fromarray(noise[..., :3]),
        "rgba.png": Image.fromarray(noise),
        "grey.png": Image.fromarray(noise[..., 0]),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 200),
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(16),
        "tall.png": Image.fromarray(noise[:, :9, :3]),
        "exact.png": Image.fromarray(noise[:24, :24, :3]),
    }
    for turn in range(1, 9):
        images[f"turned{turn}.jpg"] = Image.fromarray(noise[..., :3])
    for name, image in images.items():
        exif = Image.Exif()
        if name.startswith("turned"):
            exif[0x0112] = int(name[6])
        image.save(tmp_path / name, exif=exif.tobytes()) if name.startswith("turned") else image.save(tmp_path / name)
        expected = data.eval_view(data.decode((tmp_path / name).read_bytes()), pixels)
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(reader.view(opened, pixels.to_json()), expected, err_msg=name)


def test_without_flatbuffers_the_line_that_installs_it_is_said(tmp_path, resnet, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs flatbuffers, .* pip install 'jaxtl\[bundle\]'"):
        save_bundle(tmp_path / "bundle", resnet, request(resnet))
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no more")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("photo.jpg", "none")
    for name in ("a.zip", "b.zip"):
        for read in (read_notes, run_bundle):
            with pytest.raises(UserError, match="cannot be read as a bundle"):
                read(tmp_path / name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A Python that finds jax, numpy, Pillow, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").iterdir()) / "site-packages"
    for name in ALONE:
        there = [Path(place, name) for place in sys.path if place and Path(place, name).is_dir()]
        if there:
            (packages / name).symlink_to(there[0])
    return folder / "bin" / "python"


@pytest.mark.slow
def test_it_runs_where_there_is_nothing_but_jax_and_numpy(bundle, resnet, alone, tmp_path):
    environment = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}

    def run(*arguments):
        return subprocess.run(
            [alone, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )

    for name in ("jaxtl", "flax", "flatbuffers", "onnx", "torch", "optax", "safetensors"):
        assert run("-c", f"import {name}").returncode == 1, name
    save_bundle(tmp_path / "flowers.zip", resnet, request(resnet, format="bundle"))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    (tmp_path / "notes.jpg").write_text("none")
    expected = resnet.reference(data.eval_view(photo, resnet.pixels)[None]).logits[0]
    for place in (bundle, tmp_path / "flowers.zip"):
        verified = run(place, "--verify")
        assert (verified.returncode, verified.stderr) == (0, "")
        assert verified.stdout.startswith("verified: the largest difference of logits is ")
        predicted = run(place, "photo.png", "notes.jpg", "--calibrated")
        assert predicted.returncode == 1
        line, failed = map(json.loads, predicted.stdout.splitlines())
        assert line["class"] == CLASSES[expected.argmax()]
        likely = to_probabilities(expected / 2, sigmoid=False).max()
        assert line["probability"] == pytest.approx(float(likely), abs=1e-5)
        assert "cannot identify" in failed["error"]
