import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import real_packages
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from stand_in_hub import TOKEN, serving

from jaxtl import pretrained
from jaxtl.checkpoints.manager import read_best
from jaxtl.data import eval_view
from jaxtl.deploy.export.bundle_reader import Bundle
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained import native


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain / "run", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_classifies_as_predict_does(jaxtl, run, tmp_path):
    status, out, err = jaxtl("export", f"--workdir={run}", "--format=hf", f"--output={tmp_path / 'hf'}")
    assert (status, err) == (0, "")
    assert "3 classes" in out
    assert "crops one pixel further to the left or the top than jaxtl where a side" in out
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "README.md",
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["hf", "timm"])
def test_the_card_classifies_a_photograph_as_predict_does(jaxtl, run, tmp_path, monkeypatch, form):
    if form == "timm":
        real_packages.timm()
    jaxtl("export", f"--workdir={run}", f"--format={form}", f"--output={tmp_path / 'my model'}")
    card = ModelCard.load(tmp_path / "my model" / "README.md")
    assert card.data.library_name == {"hf": "transformers", "timm": "timm"}[form]
    assert str(tmp_path) not in card.content
    noise = np.random.default_rng(0).integers(0, 255, (20, 27, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    _, out, _ = jaxtl("predict", f"--workdir={run}", tmp_path / "photo.jpg")
    expected = json.loads(out)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", card.content, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        if "pixel_values" in names:
            # 7 pixels over the crop: the processor is the one that is a pixel further to the left.
            with torch.no_grad():
                names["probabilities"] = names["model"](pixel_values=names["pixel_values"]).logits[0].softmax(0)
        else:
            assert printed.getvalue().startswith(expected["class"])
    assert float(names["probabilities"].max()) == pytest.approx(expected["probability"], abs=1e-4)


OPEN = """
import sys
sys.path.insert(0, "tests")
from real_packages import timm
model = timm().create_model(sys.argv[1], pretrained=True)
print(model.num_classes, model.pretrained_cfg["label_names"])
"""


@pytest.mark.slow
def test_a_run_is_pushed_and_opened_from_the_hub_by_timm_and_here(run, tmp_path):
    def python(*arguments):
        settings = hub.settings(tmp_path / "cache", TOKEN)
        found = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert "Traceback" not in found.stderr, found.stderr
        return found

    with serving() as hub:
        flags = (f"--workdir={run}", "--format=timm", f"--output={tmp_path / 'timm'}", "--push=org/flowers")
        found = python("-m", "jaxtl.main", "export", *flags)
        assert found.returncode == 0, found.stderr
        assert found.stdout.splitlines()[-1] == f"{hub.address}/org/flowers: private"
        card = hub.repositories["org/flowers"]["README.md"].decode()
        assert 'create_model("hf-hub:org/flowers", pretrained=True)' in card
        assert python("-c", OPEN, "hf-hub:org/flowers").stdout == "3 ['blue', 'green', 'red']\n"
        given = ("--config.model.weights=hf:org/flowers", "--config.model.name=auto")
        found = python("-m", "jaxtl.main", "describe", *given, "--config.data.source=folder:nowhere")
        assert "3, blue ... red" in found.stdout
        # Of a repository that is there already nothing is computed, and nothing is written.
        flags = (f"--workdir={run}", "--format=hf", f"--output={tmp_path / 'hf'}", "--push=org/flowers")
        found = python("-m", "jaxtl.main", "export", *flags)
        assert (found.returncode, found.stdout) == (1, "")
        assert len(found.stderr.splitlines()) == 1
        assert "the hub has a repository org/flowers already" in found.stderr
        assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--format=hf", "--public"],
            "--public says who may see a repository of the hub: give it with --push",
        ),
        (
            ["--push=org/name"],
            "--push puts a folder on the hub that others open there: give --format=hf or",
        ),
        (["--format=hf", "--push=name"], "'name' is no name of a repository: give ORG/NAME"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_anything_is_written(jaxtl, run, tmp_path, flags, message):
    status, out, err = jaxtl("export", f"--workdir={run}", f"--output={tmp_path / 'out'}", *flags)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


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


def test_what_lies_beside_the_output_stays_and_what_failed_leaves_nothing(jaxtl, run, tmp_path, monkeypatch):
    own = tmp_path / "out" / "mine.safetensors.part"
    own.mkdir(parents=True)
    (own / "thesis.tex").write_text("chapter 1")
    own.with_name("mine.safetensors.part.zip").write_text("more")
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    flags = (f"--workdir={run}", f"--output={tmp_path / 'out' / 'mine'}")

    def on_a_full_disk(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(native, "save_file", on_a_full_disk)
        status, out, err = jaxtl("export", *flags)
    assert (status, out) == (1, "")
    assert "mine.safetensors cannot be written: " in err
    assert "No space left on device" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert jaxtl("export", *flags)[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*before, "mine.safetensors"}
    assert (own / "thesis.tex").read_text() == "chapter 1"


@pytest.mark.slow
def test_a_model_that_the_others_cannot_express_is_refused(jaxtl, train, tmp_path):
    train("--config.model.name=resnet20_cifar", "--config.train.steps=1")
    for form, message in (("hf", "transformers has no model"), ("timm", "timm has no model")):
        status, _, err = jaxtl("export", f"--workdir={tmp_path / 'run'}", f"--format={form}", "--output=out")
        assert status == 1
        assert message in err
        assert not (tmp_path / "out").exists()


def test_a_name_without_an_ending_gets_that_of_the_format(jaxtl, run, tmp_path):
    status, out, err = jaxtl("export", f"--workdir={run}", f"--output={tmp_path / 'mine'}")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'mine'}.safetensors: ")
    assert (tmp_path / "mine.safetensors").exists()


def test_an_export_is_verified_where_its_run_is_not(jaxtl, run, tmp_path):
    jaxtl("export", f"--workdir={run}", f"--output={tmp_path / 'mine'}")
    shutil.rmtree(run)
    status, out, err = jaxtl("export", f"--verify={tmp_path / 'mine.safetensors'}")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("run       run, step 12, of jaxtl ")
    assert lines[2].startswith(
        "verified  jaxtl, which opened it again: on 4 images the largest difference of logits is "
    )
    assert str(tmp_path) not in (tmp_path / "mine.safetensors").read_bytes().decode(errors="replace")


def test_weights_that_were_changed_since_do_not_verify(jaxtl, run, tmp_path):
    file = tmp_path / "mine.safetensors"
    jaxtl("export", f"--workdir={run}", f"--output={file}")
    with safe_open(file, "numpy") as opened:
        arrays, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    arrays["params/head/kernel"] = arrays["params/head/kernel"] * 1.01
    save_file(arrays, file, metadata)
    status, out, err = jaxtl("export", f"--verify={file}")
    assert (status, err) == (1, "")
    assert "differs   jaxtl, which opened it again: on 4 images" in out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("form", "program"),
    [
        ("hf", "transformers 5"),
        ("timm", "jaxtl, which opened it again"),
        ("torchvision", "jaxtl, which opened it again"),
    ],
)
def test_formats_for_pytorch_are_verified_too(jaxtl, train, tmp_path, form, program):
    train("--config.model.name=resnet18", "--config.model.image_size=32", "--config.train.steps=1")
    status, _, err = jaxtl(
        "export", f"--workdir={tmp_path / 'run'}", f"--format={form}", f"--output={tmp_path / 'mine'}"
    )
    assert (status, err) == (0, "")
    there = tmp_path / ("mine.pth" if form == "torchvision" else "mine")
    status, out, err = jaxtl("export", f"--verify={there}")
    assert (status, err) == (0, "")
    assert f"verified  {program}" in out
    if form == "torchvision":
        assert (tmp_path / "mine.pth.provenance.json").exists()
        assert (tmp_path / "mine.pth.verification.npz").exists()
    else:
        with safe_open(there / "model.safetensors", "numpy") as opened:
            assert json.loads(opened.metadata()["provenance"])["run"] == "run"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_and_bundle_of_a_calibrated_run_predict_as_predict_does(jaxtl, run, pictures, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pytest.importorskip("flatbuffers")
    real_packages.jax2onnx()
    photo = next((pictures / "test" / "red").iterdir())
    _, out, err = jaxtl("predict", f"--workdir={run}", "--calibrated", photo)
    expected = json.loads(out)
    status, out, err = jaxtl(
        *("export", f"--workdir={run}", "--format=onnx", f"--output={tmp_path / 'a'}", "--with-pixels", "--calibrated")
    )
    assert status == 0, err
    assert "step 12, calibrated" in out
    assert "images of val and 4 drawn ones: on " in out
    view = eval_view(Image.open(photo), Pixels.from_json(json.loads((run / "model.json").read_text())["pixels"]))
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": view[None]})[0][0].astype(np.float64)
    assert np.exp(logits - logits.max()).max() / np.exp(logits - logits.max()).sum() == pytest.approx(
        expected["probability"], abs=1e-5
    )
    status, out, err = jaxtl(
        "export", f"--workdir={run}", "--format=bundle", f"--output={tmp_path / 'b.zip'}", "--calibrated"
    )
    assert status == 0, err
    bundle = Bundle(tmp_path / "b.zip")
    found = bundle.probabilities(bundle.logits(view[None]), calibrated=True)[0]
    assert found.max() == pytest.approx(expected["probability"], abs=1e-5)
    for name in ("a.onnx", "b.zip"):
        status, out, _ = jaxtl("export", f"--verify={tmp_path / name}")
        assert (status, "calibrated" in out) == (0, True)
        assert str(tmp_path) not in (tmp_path / name).read_bytes().decode(errors="replace")


@pytest.mark.slow
def test_litert_is_measured_on_val_and_verified_where_the_run_is_not(plain, pictures, tmp_path):
    run = shutil.copytree(plain / "run", tmp_path / "run")
    environment = real_packages.litert()

    def export(*flags):
        return subprocess.run(
            [sys.executable, "-m", "jaxtl.main", "export", *flags],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    found = export("--workdir=run", "--format=tflite", "--dtype=int8_static", "--with-pixels", "--output=mine")
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0].startswith("mine.tflite: vit_petals:depth=2")
    table = {line.split()[0]: line.split() for line in lines if line.endswith("%")}
    assert list(table) == ["float32", "int8_static"]
    assert "takes image [1, 16, 16, 3], uint8, normalised within; gives logits [1, 3], float32" in lines
    accuracy = json.loads((run / "results.json").read_text())["val"]["accuracy"]
    assert float(table["float32"][-2]) == pytest.approx(100 * accuracy, abs=0.06)
    shutil.rmtree(run)
    found = export("--verify=mine.tflite")
    assert (found.returncode, "verified  LiteRT 2.3.0: on 4 images" in found.stdout) == (0, True), found
    # Where its images are gone, scales of activations cannot be found, and accuracy cannot be measured.
    run = shutil.copytree(plain / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "folder:gone"
    (run / "config.json").write_text(json.dumps(config))
    found = export("--workdir=run", "--format=tflite", "--dtype=int8_static", "--output=other")
    assert (found.returncode, len(found.stderr.splitlines())) == (1, 1)
    assert "int8_static finds the scales of activations with images of train" in found.stderr
    found = export("--workdir=run", "--format=tflite", "--dtype=int8_dynamic", "--output=other")
    assert found.returncode == 0
    assert "note: what int8_dynamic costs in accuracy is not measured" in found.stdout
    assert sorted(path.name for path in tmp_path.glob("other*")) == [
        "other.tflite",
        "other.tflite.provenance.json",
        "other.tflite.verification.npz",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --workdir and --output, or --verify=FILE"),
        (("--workdir=run",), "give --output, or --verify=FILE"),
        (("--verify=gone.onnx",), "there is no gone.onnx: give a file or a folder that export wrote"),
        (("--verify=x.word",), "x.word ends in none of .safetensors, "),
        (("--verify=empty",), "there is no empty/provenance.json: jaxtl writes one with every export"),
        (("--verify=x.word", "--output=y"), "--verify takes an export alone: leave out --output"),
        (
            ("--verify=x.word", "--format=onnx", "--dtype=float16", "--with-pixels", "--calibrated", "--public"),
            "leave out --format, --calibrated, --dtype, --with-pixels, --public",
        ),
        (
            ("--workdir=gone", "--output=empty.safetensors"),
            "--output=empty.safetensors is a folder: --format=jaxtl writes",
        ),
        (("--verify=bad.safetensors",), "bad.safetensors cannot be read"),
        (("--workdir=gone", "--output=x", "--format=bundle"), "give the --workdir of a run that has trained"),
        (("--workdir=gone", "--output=x", "--dtype=int8_static"), "but --format=jaxtl is written in float32"),
        (("--workdir=gone", "--output=x.pth", "--format=jaxtl"), "--output=x.pth must end in .safetensors"),
    ],
)
def test_bad_flags_get_a_line(jaxtl, tmp_path, flags, message):
    (tmp_path / "x.word").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.safetensors").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    status, out, err = jaxtl("export", *flags)
    assert (status, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_mean_of_weights_is_exported_like_any_run(jaxtl, train, tmp_path):
    train("--config.train.keep_latest=3")
    status, _, err = jaxtl("average", tmp_path / "run", "--by=checkpoints", f"--workdir={tmp_path / 'mean'}")
    assert (status, err) == (0, "")
    status, _, err = jaxtl("export", f"--workdir={tmp_path / 'mean'}", f"--output={tmp_path / 'mine'}")
    assert (status, err) == (0, "")
    status, out, err = jaxtl("export", f"--verify={tmp_path / 'mine.safetensors'}")
    assert (status, err) == (0, "")
    assert "begun from average by checkpoints of run, licence not known" in out
