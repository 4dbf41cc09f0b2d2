import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file

from jaxtl import pretrained
from jaxtl.checkpoints.manager import read_best


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain / "run", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_classifies_as_predict_does(jaxtl, run, tmp_path):
    status, out, err = jaxtl("export", f"--workdir={run}", "--format=hf", f"--output={tmp_path / 'hf'}")
    assert (status, err) == (0, "")
    assert "3 classes" in out
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "provenance.json",
        "verification.npz",
    ]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    # Shapes whose margins are even: transformers rounds the half pixel of a centre crop to the other side.
    files = [tmp_path / f"{width}.png" for width in (20, 25, 30)]
    for file in files:
        noise = np.random.default_rng(0).integers(0, 255, (20, int(file.stem), 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    batch = processor([Image.open(file) for file in files], return_tensors="pt")
    with torch.no_grad():
        probabilities = theirs(**batch).logits.softmax(-1).numpy()
    _, out, _ = jaxtl("predict", f"--workdir={run}", *files)
    for line, row in zip(map(json.loads, out.splitlines()), probabilities, strict=True):
        assert line["class"] == theirs.config.id2label[int(row.argmax())]
        assert line["probability"] == pytest.approx(float(row.max()), abs=1e-4)


@pytest.mark.parametrize("form", ["hf", "timm"])
@pytest.mark.slow
def test_what_was_exported_evaluates_as_the_run_does(jaxtl, run, config_file, pictures, tmp_path, form):
    jaxtl("export", f"--workdir={run}", f"--format={form}", f"--output={tmp_path / form}")
    _, variables = read_best(run)
    array = load_file(tmp_path / form / "model.safetensors")["classifier.weight" if form == "hf" else "head.weight"]
    np.testing.assert_array_equal(array.T, variables["params"]["head"]["kernel"])
    assert pretrained.open_weights(str(tmp_path / form)).classes == ("blue", "green", "red")
    status, _, err = jaxtl(
        "eval",
        f"--config={config_file}",
        f"--config.model.weights={tmp_path / form}",
        f"--config.data.source=folder:{pictures}",
        "--config.data.test=test",
        f"--workdir={tmp_path / 'eval'}",
    )
    assert (status, err) == (0, "")
    ours, theirs = (json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("run", "eval"))
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-6)
    assert theirs["confusion_matrix"] == ours["confusion_matrix"]


def test_nothing_is_overwritten_and_nothing_half_written_is_left(jaxtl, run, tmp_path):
    (tmp_path / "mine").mkdir()
    status, _, err = jaxtl("export", f"--workdir={run}", "--format=hf", f"--output={tmp_path / 'mine'}")
    assert status == 1
    assert "is there already" in err
    status, _, err = jaxtl("export", f"--workdir={run}", "--format=word", "--output=x")
    assert status == 2
    (tmp_path / "file").touch()
    status, _, err = jaxtl("export", f"--workdir={run}", "--format=timm", f"--output={tmp_path / 'file' / 'x'}")
    assert status == 1
    assert "cannot be written" in err


@pytest.mark.slow
def test_a_model_that_the_others_cannot_express_is_refused(jaxtl, train, tmp_path):
    train("--config.model.name=resnet20_cifar", "--config.train.steps=1")
    for form, message in (("hf", "transformers has no model"), ("timm", "timm has no model")):
        status, _, err = jaxtl("export", f"--workdir={tmp_path / 'run'}", f"--format={form}", "--output=out")
        assert status == 1
        assert message in err
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.part").exists()


def test_a_name_without_an_ending_gets_that_of_the_format(jaxtl, run, tmp_path):
    status, out, err = jaxtl("export", f"--workdir={run}", f"--output={tmp_path / 'mine'}")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'mine'}.safetensors: ")
    assert (tmp_path / "mine.safetensors").exists()
