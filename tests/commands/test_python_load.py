"""jaxtl.load on what commands wrote: a run, its exports, with calibration, from many threads; README's words."""

import gc
import re
import shutil
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxtl
from jaxtl.checkpoints import direct, manager
from jaxtl.commands import describe, train
from jaxtl.commands import eval as eval_command
from jaxtl.errors import UserError
from jaxtl.experiment import loading
from jaxtl.trees import flatten

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def run(plain):
    return plain / "run"


@pytest.fixture
def photo(pictures):
    return pictures / "test" / "red" / "100.png"


# Orbax leaves tasks behind where files are damaged, whose event loop is closed when they end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_fast_way_to_a_checkpoint_gives_what_orbax_gives(run, monkeypatch, tmp_path):
    step, variables = manager.read_best(run)
    monkeypatch.setattr(manager, "read_best", None)  # It is not asked.
    again, found = direct.read_best(run)
    assert again == step
    found, variables = flatten(found), flatten(variables)
    assert found.keys() == variables.keys()
    for path, leaf in variables.items():
        assert (found[path].dtype, found[path].shape) == (leaf.dtype, leaf.shape)
        np.testing.assert_array_equal(found[path], leaf)
    # What is damaged is left to what tells of it.
    monkeypatch.undo()
    copied = shutil.copytree(run, tmp_path / "copied")
    for file in (copied / "checkpoints" / str(step) / "variables").rglob("d/*"):
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
    other, _ = direct.read_best(copied)
    assert other != step
    gc.collect()  # So that they are told of here.


def test_runs_and_exports_of_them_say_the_same(run, photo, tmp_path, jaxtl_command, monkeypatch):
    predictor = jaxtl.load(run)
    expected, logits = predictor(photo), predictor.logits(photo)
    assert predictor.classes == ("blue", "green", "red")
    for format, name in (("jaxtl", "a.safetensors"), ("hf", "b"), ("bundle", "c"), ("bundle", "d.zip")):
        assert jaxtl_command("export", f"--workdir={run}", f"--output={tmp_path / name}", f"--format={format}")[0] == 0
        loaded = jaxtl.load(tmp_path / name)
        assert loaded.classes == predictor.classes
        np.testing.assert_allclose(loaded.logits(photo), logits, atol=1e-5)
        assert loaded(photo)["class"] == expected["class"]
    with pytest.raises(UserError, match="operating points belong to a run"):
        jaxtl.load(tmp_path / "a.safetensors", operating_points=True)
    for place, message in (
        ("", "there is no ''"),
        ("nowhere", "there is no 'nowhere': give the workdir of a run"),
        ("mine.onnx", "mine.onnx is for onnxruntime, which runs it"),
        ("openvino", "openvino is for OpenVINO"),
    ):
        (tmp_path / "openvino").mkdir(exist_ok=True)
        for file in ("mine.onnx", "openvino/model.xml", "openvino/model.json"):
            (tmp_path / file).touch()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=message):
            jaxtl.load(place)
    damaged = tmp_path / "e.zip"
    damaged.write_bytes((tmp_path / "d.zip").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"e\.zip is no bundle .* or damaged"):
        jaxtl.load(damaged)


def test_calibrated_from_the_run_and_from_an_export(run, photo, tmp_path, jaxtl_command):
    expected = jaxtl.load(run, calibrated=True)(photo)
    assert expected["calibrated"] is True
    for flags, name in (((), "a.safetensors"), (("--calibrated",), "b.safetensors")):
        jaxtl_command("export", f"--workdir={run}", f"--output={tmp_path / name}", *flags)
        found = jaxtl.load(tmp_path / name, calibrated=True)(photo)
        assert found["calibrated"] is True
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-5)


@pytest.mark.slow
def test_an_export_of_yes_and_no_gives_sigmoids_as_its_run_does(trained, photo, tmp_path, jaxtl_command):
    run = trained("binary", "--config.train.loss=binary", "--config.train.steps=4") / "run"
    expected = jaxtl.load(run)(photo)
    assert sum(each["probability"] for each in expected["top5"]) != pytest.approx(1, abs=1e-3)
    jaxtl_command("export", f"--workdir={run}", f"--output={tmp_path / 'a.safetensors'}")
    found = jaxtl.load(tmp_path / "a.safetensors")(photo)
    assert found["class"] == expected["class"]
    assert [each["probability"] for each in found["top5"]] == pytest.approx(
        [each["probability"] for each in expected["top5"]], abs=1e-5
    )


def test_features_are_what_the_head_sees(run, photo):
    predictor = jaxtl.load(run)
    _, variables = manager.read_best(run)
    features, head = predictor.features(photo), variables["params"]["head"]
    assert features.shape == (16,)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], predictor.logits(photo), atol=1e-5)


def test_many_threads_get_what_one_gets(run, pictures):
    predictor = jaxtl.load(run, batch_size=4)
    files = sorted((pictures / "test").rglob("*.png"))[:7]
    expected, found = predictor(files), []
    threads = [threading.Thread(target=lambda: found.append(predictor(files))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 16


def test_a_run_without_a_checkpoint(run, tmp_path):
    for path in ("model.json", "config.json"):
        (tmp_path / path).write_bytes((run / path).read_bytes())
    with pytest.raises(UserError, match="holds no checkpoints: give the --workdir of a run that has trained"):
        jaxtl.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="was stopped before its first checkpoint"):
        jaxtl.load(tmp_path)


def blocks(word):
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return [compile(block, "README.md", "exec") for block in found if word in block]


def test_the_lines_of_the_readme_that_predict(run, pictures, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "runs" / "mine")
    (tmp_path / "new").mkdir()
    with Image.open(pictures / "test" / "red" / "100.png") as image:
        image.save(tmp_path / "new" / "photo1.jpg")
    (tmp_path / "new" / "photo2.jpg").write_text("Buy milk")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("jaxtl.load")
    names = {}
    exec(block, names)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split()[0] in ("red", "green", "blue")
    assert second.startswith("new/photo1.jpg [{'class': ")
    assert third.startswith("new/photo2.jpg the file is no image")
    assert names["features"].shape == (16,)


def test_the_lines_of_the_readme_that_train(run, monkeypatch, capsys):
    asked = []

    def record(config, *rest, **_):
        asked.append((config, *rest))
        return {"test": {"accuracy": 0.975}} if rest else "groups"

    for command in (train, eval_command, describe):
        monkeypatch.setattr(command, "run", record)
    monkeypatch.chdir(README.parent)
    monkeypatch.setattr(
        "jaxtl.experiment.workdir.run_config", lambda workdir: jaxtl.api.config_of("vit_flowers:ti16", {})
    )
    (block,) = blocks("jaxtl.train(")
    exec(block, {})
    assert capsys.readouterr().out == "groups\n0.975\n"
    (described,), (trained, mine), (measured, check) = asked
    assert (described.model.weights, described.data.source) == ("deit_tiny_patch16_224.safetensors", "folder:photos")
    assert (trained.train.epochs, trained.data.source, str(mine)) == (20, "folder:photos", "runs/mine")
    assert (measured.model.weights, measured.data.source, str(check)) == (
        "run:runs/mine",
        "folder:others",
        "runs/check",
    )
    assert "jaxtl.api" in sys.modules


@pytest.fixture
def jaxtl_command(request):
    return request.getfixturevalue("jaxtl")


@pytest.mark.parametrize(("told", "kept"), [(1.0, 0.1), (5.0, 5.0)])
def test_short_compilations_are_kept_too_unless_jax_was_told_otherwise(told, kept):
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, told)
        loading.keep_compiled()
        assert getattr(jax.config, name) == kept
    finally:
        jax.config.update(name, before)
