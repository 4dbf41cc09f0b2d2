"""What compress made, in every format: exported, opened again, and measured to compute as the run does."""

import re
import subprocess
import sys

import numpy as np
import pytest
import real_packages

import jaxtl as library
from jaxtl.deploy.export.verify import verify

CNN = "--config.model.name=resnet20_cifar:blocks=1,width=8"
RESNET = ("--config.model.name=resnet18", "--config.train.steps=1")
ENDINGS = {"jaxtl": ".safetensors", "torchvision": ".pth", "onnx": ".onnx"}
NO_SUCH_MODEL = r"(no model that computes what|has as many heads and MLP units|no such ViT).*can be exported to jaxtl"
NO_ROUNDING = "rounds what its kernels are multiplied with, which these files cannot say"


@pytest.fixture
def compressed(trained, plain, jaxtl, tmp_path):
    """Compresses a run of one of three networks; returns the new workdir."""

    def make(of, recipe, *flags):
        run = {"vit": lambda: plain, "cnn": lambda: trained("cnn", CNN), "resnet": lambda: trained("resnet", *RESNET)}
        new = tmp_path / "new"
        status, _, told = jaxtl(
            "compress", f"--workdir={run[of]() / 'run'}", f"--recipe={recipe}", f"--output={new}", *flags
        )
        assert (status, told) == (0, "")
        return new

    return make


@pytest.fixture
def export(jaxtl, tmp_path):
    """Exports a run; returns the path, and what was complained of."""

    def write(run, form):
        path = tmp_path / f"as_{form}{ENDINGS.get(form, '')}"
        status, _, told = jaxtl("export", f"--workdir={run}", f"--format={form}", f"--output={path}")
        assert status == int("error: " in told), told
        return path, told

    return write


def near(recipe):
    """Returns how far logits may be from the run's, as a share of the largest.

    Where inputs are rounded a last bit may be a whole step; without the rounding they differ by 0.02 and more.
    """
    return 1e-2 if recipe == "w8a8" else 1e-4


TUNED = ("--epochs=1",)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("of", "recipe", "flags"),
    [
        ("vit", "prune", TUNED),
        ("vit", "2:4", TUNED),
        ("vit", "structure", ("--flops=0.4", *TUNED)),
        ("vit", "int8", ()),
        ("vit", "int4", ()),
        ("vit", "w8a8", ()),
        ("cnn", "structure", TUNED),
        ("cnn", "w8a8", ()),
        ("resnet", "int8", ()),
    ],
)
def test_every_format_computes_what_the_run_does(of, recipe, flags, compressed, export, jaxtl, pictures, tmp_path):
    for package in ("onnxruntime", "openvino", "flatbuffers"):
        pytest.importorskip(package)
    real_packages.jax2onnx()
    run, photo = compressed(of, recipe, *flags), pictures / "test" / "red" / "100.png"
    expected = library.load(run).logits(photo)
    measured = np.load(run / "predictions.npz")["test_logits"]
    has_names = of != "cnn" and recipe not in ("structure", "w8a8")
    for form in ("jaxtl", "bundle", "hf", "timm", "torchvision"):
        path, told = export(run, form)
        if form not in ("jaxtl", "bundle") and (not has_names or (form, of) == ("torchvision", "vit")):
            assert re.search(NO_ROUNDING if recipe == "w8a8" else NO_SUCH_MODEL, told.replace("\n", " ")), told
            assert (len(told.splitlines()), path.exists()) == (1, False)
            continue
        assert verify(path)[2].share < near(recipe)
        if form != "torchvision":  # It does not say how images are prepared.
            np.testing.assert_allclose(library.load(path).logits(photo), expected, atol=near(recipe))
        if form in ("jaxtl", "hf"):
            folder = tmp_path / f"eval_{form}"
            given = (f"--config.model.weights={path}", "--config.model.name=auto")
            source = f"--config.data.source=folder:{pictures}"
            status, _, told = jaxtl("eval", f"--config={run / 'config.json'}", *given, source, f"--workdir={folder}")
            assert (status, told) == (0, "")
            np.testing.assert_allclose(np.load(folder / "predictions.npz")["test_logits"], measured, atol=near(recipe))
    for form in ("onnx", "openvino"):
        path, told = export(run, form)
        assert "error" not in told
        assert verify(path)[2].share < near(recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "recipe", "flags"),
    [
        ("vit", "structure", ("--flops=0.4", *TUNED)),  # One head in each block.
        ("vit", "int4", ()),
        ("cnn", "structure", TUNED),
        ("cnn", "w8a8", ()),
    ],
)
def test_litert_computes_what_the_run_does(of, recipe, flags, compressed, tmp_path):
    environment = real_packages.litert()
    run = compressed(of, recipe, *flags)
    command = (sys.executable, "-m", "jaxtl.main", "export", f"--workdir={run}", "--format=tflite")
    found = subprocess.run(
        [*command, f"--output={tmp_path / 'new'}"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert (found.returncode, found.stderr) == (0, "")
    (share,) = re.findall(r"LiteRT \S+, float32, .* is \S+, (\S+) of the largest", found.stdout)
    assert float(share) < near(recipe)
