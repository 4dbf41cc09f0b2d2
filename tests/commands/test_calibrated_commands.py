"""Calibration and operating points from the command line, on a run that was trained once for all tests."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from real_packages import timm
from safetensors import safe_open

from jaxtl import models, pretrained
from jaxtl.checkpoints.manager import read_best
from jaxtl.evaluate.predictions import read_predictions
from jaxtl.evaluate.scaling import Scaling, fit_temperature, fit_vector_scaling

TINY = "vit_petals:depth=2,width=16,heads=2,patch=8"


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain / "run", tmp_path / "run")


def sharpen(run, factor=8.0):
    """Makes the run too sure of itself: what it kept of its logits, and the calibration that was fitted to them."""
    classes, splits = read_predictions(run / "predictions.npz")
    arrays = {}
    for split, kept in splits.items():
        # Some labels are wrong, so that there is a temperature to be found.
        labels = np.where(np.arange(len(kept.labels)) % 6 == 0, (kept.labels + 1) % 3, kept.labels).astype(np.int32)
        arrays |= {f"{split}_names": kept.names, f"{split}_labels": labels}
        arrays |= {f"{split}_logits": (kept.logits * np.float16(factor)).astype(np.float16)}
    np.savez(run / "predictions.npz", classes=np.array(classes), **arrays)
    (run / "calibration.json").unlink()
    return fit_temperature(arrays["val_labels"], arrays["val_logits"])


def set_calibration(run, scaling):
    written = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps({**written, **scaling.to_json()}))


def predictions(result):
    assert result[0] == 0, result[2]
    return [json.loads(line) for line in result[1].splitlines()]


def test_a_run_ends_with_its_calibration(plain):
    written, results = (json.loads((plain / "run" / f"{name}.json").read_text()) for name in ("calibration", "results"))
    _, splits = read_predictions(plain / "run" / "predictions.npz")
    assert Scaling.from_json(written) == fit_temperature(splits["val"].labels, splits["val"].logits)
    assert (written["count"], written["step"]) == (len(splits["val"].labels), results["best_step"])
    for split in ("val", "test"):
        for when in ("before", "after"):
            found = {key: value for key, value in written[split][when].items() if key != "reliability"}
            assert found == results["calibration"][split][when]
        assert results["calibration"][split]["before"]["accuracy"] == results[split]["accuracy"]
    assert "calibrated" not in (plain / "printed").read_text()  # Its val has a few images only.


def test_calibrated_predictions_are_asked_for_and_say_so(jaxtl, run, pictures):
    image = pictures / "test" / "red" / "100.png"
    (before,) = predictions(jaxtl("predict", f"--workdir={run}", image))
    assert set(before) == {"file", "class", "probability", "top5"}
    scaling = Scaling(2.5)
    set_calibration(run, scaling)
    (same,) = predictions(jaxtl("predict", f"--workdir={run}", image))
    assert same == before
    (after,) = predictions(jaxtl("predict", f"--workdir={run}", "--calibrated", image))
    assert after["calibrated"]
    shares = np.array([entry["probability"] for entry in before["top5"]]) ** (1 / 2.5)
    expected = shares / shares.sum()
    assert [entry["class"] for entry in after["top5"]] == [entry["class"] for entry in before["top5"]]
    assert [entry["probability"] for entry in after["top5"]] == pytest.approx(expected.tolist(), abs=1e-4)
    (none,) = predictions(jaxtl("predict", f"--workdir={run}", "--calibrated", "--reject_below=1", image))
    assert (none["class"], none["top5"]) == (None, after["top5"])
    assert none["rejected"] == "its probability is below 1"


def test_a_run_of_before_is_calibrated_by_its_predictions(jaxtl, run, pictures):
    image = pictures / "test" / "red" / "100.png"
    expected = sharpen(run)
    status, out, err = jaxtl("predict", f"--workdir={run}", "--calibrated", image)
    assert (status, json.loads(out)["calibrated"]) == (0, True)
    assert f"has no calibration.json, so one was fitted now: temperature {expected.temperature:#.3g} of the" in err
    (run / "predictions.npz").unlink()
    status, out, err = jaxtl("predict", f"--workdir={run}", "--calibrated", image)
    assert (status, out) == (1, "")
    assert "no predictions.npz to fit one from" in err
    shutil.rmtree(run / "checkpoints")
    status, _, err = jaxtl("predict", f"--workdir={run}", "--calibrated", image)
    assert status == 1
    assert len(err.splitlines()) <= 2


# What a command leaves of JAX: the backends that hold devices.
ALONE = """
import sys
from jaxtl.main import main
from jax._src import xla_bridge
status = main(sys.argv[1:])
assert not xla_bridge._backends, "a device was asked for"
sys.exit(status)
"""


def test_operating_points_are_chosen_without_a_device_and_applied(jaxtl, run, pictures, tmp_path):
    sharpen(run)
    command = [sys.executable, "-c", ALONE, "operating_points", f"--workdir={run}", "--recall=0.9"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[1] == "recall of at least 90 % for each class"
    assert lines[2].split()[:5] == ["class", "threshold", "precision", "on", "val"]
    assert [line.split()[0] for line in lines[3:6]] == ["blue", "green", "red"]
    assert lines[-1] == str(run / "operating_points.json")
    found = predictions(jaxtl("predict", f"--workdir={run}", "--operating_points", pictures / "test"))
    assert all((line["calibrated"], line["operating_point"]) == (True, "recall 0.9") for line in found)
    (tmp_path / "costs.csv").write_text(",red,green,blue\nblue,5,5,0\nred,0,1,1\ngreen,1,0,1\n")
    status, out, err = jaxtl("operating_points", f"--workdir={run}", f"--costs={tmp_path / 'costs.csv'}")
    assert status == 0, err
    assert "decided otherwise" in out
    (line, *_) = predictions(jaxtl("predict", f"--workdir={run}", "--operating_points", pictures / "test"))
    assert line["operating_point"] == "least cost"


def test_bad_input_of_operating_points(jaxtl, run, tmp_path):
    for flags, status, message in (
        (("--precision=2",), 1, "--precision is 2, but it must be above 0 and at most 1: 0.02 is 2 %."),
        (("--precision=0.9", "--recall=0.9"), 2, "not allowed with argument"),
        (("--accuracy=0.9", "--by=margin"), 2, "invalid choice"),
        (("--costs=none.csv",), 1, "--costs=none.csv cannot be read"),
        (("--config.train.steps=3",), 1, "takes no --config.train.steps"),
    ):
        found = jaxtl("operating_points", f"--workdir={run}", *flags)
        assert (found[0], found[1]) == (status, "")
        assert message in found[2]
    status, _, err = jaxtl("operating_points", f"--workdir={tmp_path / 'nowhere'}")
    assert (status, len(err.splitlines())) == (1, 1)
    assert not (run / "operating_points.json").exists()


def logits_of(variables, images):
    model = models.build(TINY, num_classes=3, image_size=16)
    return np.asarray(jax.jit(model.apply)(variables, jnp.asarray(images)))


def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "scaling", [Scaling(2.5), pytest.param(Scaling(1.0, (0.5, 1.0, 2.0), (0.5, -0.5, 0.0)), id="vector")]
)
def test_an_export_has_the_calibration_in_its_weights_if_asked(jaxtl, run, tmp_path, scaling):
    set_calibration(run, scaling)
    step, variables = read_best(run)
    before = logits_of(variables, images())
    for flags, expected, folded in ((("--calibrated",), scaling.apply(before), True), ((), before, False)):
        output = tmp_path / f"{folded}.safetensors"
        status, out, err = jaxtl("export", f"--workdir={run}", f"--output={output}", *flags)
        assert (status, err) == (0, "")
        assert (f"step {step}, calibrated, " in out) == folded
        opened = pretrained.open_weights(str(output))
        model = models.build(TINY, num_classes=3, image_size=16)
        back, _ = pretrained.load_pretrained(opened, model, image_size=16, head="keep", rng=jax.random.key(0))
        np.testing.assert_allclose(logits_of(back, images()), expected, atol=1e-5)
        with safe_open(output, "np") as file:
            said = json.loads(file.metadata()["jaxtl"])["calibration"]
        assert (said["folded_into_weights"], said["method"]) == (folded, scaling.method)
        assert said["temperature"] == scaling.temperature
    with safe_open(output, "np") as file:  # The last one: as trained, to the bit.
        np.testing.assert_array_equal(file.get_tensor("params/head/kernel"), variables["params"]["head"]["kernel"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["hf", "timm"])
def test_other_packages_compute_the_calibrated_logits(jaxtl, run, tmp_path, form):
    set_calibration(run, Scaling(2.5))
    before = logits_of(read_best(run)[1], images())
    pixels = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
    for flags, temperature in (((), 1.0), (("--calibrated",), 2.5)):
        folder = tmp_path / f"{form}{temperature}"
        status, _, err = jaxtl("export", f"--workdir={run}", f"--format={form}", f"--output={folder}", *flags)
        assert status == 0, err  # transformers draws a progress bar there.
        config = json.loads((folder / "config.json").read_text())
        assert config["calibration"]["folded_into_weights"] == bool(flags)
        if form == "hf":
            theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        else:
            theirs = timm().create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.no_grad():
            found = theirs(pixels)
        np.testing.assert_allclose(getattr(found, "logits", found), before / temperature, atol=1e-4)
        assert pretrained.open_weights(str(folder)).classes == ("blue", "green", "red")


@pytest.mark.slow
def test_vector_scaling_is_a_choice_and_none_another(train, jaxtl, pictures, tmp_path):
    assert train("--config.eval.calibration=vector", "--config.train.steps=4")[0] == 0
    _, splits = read_predictions(tmp_path / "run" / "predictions.npz")
    written = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert Scaling.from_json(written) == fit_vector_scaling(splits["val"].labels, splits["val"].logits)
    image = pictures / "test" / "red" / "100.png"
    (line,) = predictions(jaxtl("predict", f"--workdir={tmp_path / 'run'}", "--calibrated", image))
    assert line["calibrated"]
    # The key changes nothing that trains: the run is the same, and finished.
    status, out, _ = train("--config.eval.calibration=none", "--config.train.steps=4")
    assert status == 0
    assert "is finished already" in out
    assert train("--config.eval.calibration=none", "--config.train.steps=4", workdir="without")[0] == 0
    assert not (tmp_path / "without" / "calibration.json").exists()
    assert "calibration" not in json.loads((tmp_path / "without" / "results.json").read_text())


@pytest.mark.slow
def test_one_logit_and_sigmoids_go_all_the_way(train, jaxtl, pictures, tmp_path):
    shutil.rmtree(pictures / "train" / "blue")
    shutil.rmtree(pictures / "test" / "blue")
    for name, flag in (("one", "--config.model.single_logit=true"), ("yes", "--config.train.loss=binary")):
        assert train(flag, "--config.train.steps=4", workdir=name)[0] == 0
        run = tmp_path / name
        set_calibration(run, Scaling(2.0))
        (before,) = predictions(jaxtl("predict", f"--workdir={run}", pictures / "test" / "red" / "100.png"))
        calibrated = jaxtl("predict", f"--workdir={run}", "--calibrated", pictures / "test" / "red" / "100.png")
        (after,) = predictions(calibrated)
        for old, new in zip(before["top5"], after["top5"], strict=True):
            odds = np.log(old["probability"] / (1 - old["probability"]))
            assert new["probability"] == pytest.approx(1 / (1 + np.exp(-odds / 2)), abs=1e-4)
        output = tmp_path / f"{name}.safetensors"
        assert jaxtl("export", f"--workdir={run}", f"--output={output}", "--calibrated")[0] == 0
        flags = ("--config.model.weights=" + str(output), f"--config.data.source=folder:{pictures}")
        status, _, err = jaxtl(
            "eval", f"--config={tmp_path / 'tiny.py'}", *flags, f"--workdir={tmp_path / f'{name}_eval'}"
        )
        assert status == 0, err
        folded, kept = (read_predictions(tmp_path / f / "predictions.npz")[1]["test"] for f in (f"{name}_eval", name))
        np.testing.assert_allclose(folded.logits, kept.logits / 2.0, atol=5e-3)
        status, _, err = jaxtl("operating_points", f"--workdir={run}", "--accuracy=0.5", "--by=energy")
        assert (status, "one logit for two classes has no energy" in err) == (
            (1, True) if name == "one" else (0, False)
        )
