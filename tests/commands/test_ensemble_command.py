import json
import shutil

import numpy as np
import pytest
from put_together import shifted, variant
from safetensors.numpy import load_file, save_file

import jaxtl as jaxtl_package

FORMATS = ("jaxtl", "hf", "timm", "torchvision")


@pytest.fixture
def runs(plain, tmp_path):
    return [variant(plain / "run", tmp_path / name, shifted(seed)) for seed, name in enumerate("ab")]


def read(workdir, name):
    return json.loads((workdir / name).read_text())


@pytest.fixture
def made(runs, jaxtl, tmp_path):
    status, printed, told = jaxtl("ensemble", *runs, "--flip", f"--workdir={tmp_path / 'both'}")
    assert (status, told) == (0, "")
    for run in runs:
        shutil.rmtree(run)  # It needs them no more.
    return tmp_path / "both", printed


def test_features_of_an_ensemble_are_those_of_its_members_one_after_another(runs, jaxtl, tmp_path, pictures):
    photo = pictures / "test" / "red" / "100.png"
    own = np.concatenate([jaxtl_package.load(run).features(photo) for run in runs])
    assert jaxtl("ensemble", *runs, f"--workdir={tmp_path / 'both'}")[0] == 0
    found = jaxtl_package.load(tmp_path / "both").features([photo, photo])
    np.testing.assert_allclose(found, [own, own], rtol=1e-5, atol=1e-6)


def test_an_ensemble_outlives_its_members_and_the_commands_know_it(made, jaxtl, tmp_path, pictures):
    workdir, printed = made
    results = read(workdir, "results.json")
    rows = results["ensemble"]["table"]["rows"]
    assert list(rows)[2:] == ["a, all views", "b, all views", *(
        f"ensemble by {way}" for way in ("vote", "weighted", "logits", "stacking")
    )]  # fmt: skip
    assert sum(results["ensemble"]["weights"]) == pytest.approx(1)
    # Weights, metrics on val and the calibration are of the same images.
    assert (results["val"]["in_sample"], results["calibration"]["in_sample"]) == (True, True)
    assert "in_sample" not in results["test"]
    assert printed.count("(in-sample: it was fitted to these images)") == 1
    assert "ensemble by weighted (this one) against " in printed
    assert (workdir / "ensemble.md").read_text() in printed
    # eval measures on test what was measured there when it was made, and predict says the same of each image.
    status, _, told = jaxtl("eval", f"--config.model.weights=run:{workdir}", f"--workdir={tmp_path / 'again'}")
    assert (status, told) == (0, "")
    again = read(tmp_path / "again", "results.json")["test"]
    assert again["log_loss"] == pytest.approx(results["test"]["log_loss"], abs=1e-5)
    assert "trained_on" not in read(tmp_path / "again", "results.json")
    seen = ("--config.eval.split=train", f"--workdir={tmp_path / 'seen'}")
    status, said, _ = jaxtl("eval", f"--config.model.weights=run:{workdir}", *seen)
    trained = read(tmp_path / "seen", "results.json")["trained_on"]
    assert (status, 0 < trained < 60) == (0, True)  # A tenth of train validated.
    assert f"warning   members were trained on {trained} of them: the metrics are too good" in said
    images = sorted((pictures / "test").rglob("*.png"))
    status, lines, _ = jaxtl("predict", f"--workdir={workdir}", *images)
    assert status == 0
    with np.load(workdir / "predictions.npz") as kept:
        classes, logits = list(kept["classes"]), dict(zip(kept["test_names"], kept["test_logits"], strict=True))
    for path, line in zip(images, map(json.loads, lines.splitlines()), strict=True):
        own = np.float64(logits["/".join(path.parts[-3:])])
        shares = np.exp(own - own.max()) / np.exp(own - own.max()).sum()
        assert line["class"] == classes[own.argmax()]
        assert line["probability"] == pytest.approx(shares.max(), abs=2e-3)
    assert jaxtl("report", f"--workdir={workdir}")[0] == 0
    page = (workdir / "report" / "index.html").read_text()
    assert "ensemble of vit_petals" in page
    assert "this ensemble goes by weighted" in page
    assert "An ensemble by weighted of a, b, in that order: " in (workdir / "report" / "model_card.md").read_text()


def test_what_cannot_hold_several_networks_says_so_in_a_line(made, jaxtl, tmp_path, config_file, pictures):
    workdir, _ = made
    picture = pictures / "test" / "red" / "100.png"
    for words in (
        *(["export", f"--workdir={workdir}", f"--format={each}", f"--output={tmp_path / 'x'}"] for each in FORMATS),
        ["explain", f"--workdir={workdir}", picture],
        ["report", "--map", f"--workdir={workdir}"],
        ["ensemble", workdir, workdir, f"--workdir={tmp_path / 'x'}"],
        ["train", f"--config={config_file}", f"--config.data.source=folder:{pictures}",
         f"--config.model.weights=run:{workdir}", f"--workdir={tmp_path / 'x'}"],
    ):  # fmt: skip
        status, _, told = jaxtl(*words)
        assert status == 1, words
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert "ensemble" in told or "given twice" in told


def test_a_damaged_or_missing_member_is_told(made, jaxtl, pictures):
    workdir, _ = made
    (path, *_) = sorted((workdir / "members").iterdir())
    arrays = load_file(path)
    save_file({name: array + 1 for name, array in arrays.items()}, path)
    picture = pictures / "test" / "red" / "100.png"
    assert (
        "is damaged: its SHA-256 is not that of ensemble.json" in jaxtl("predict", f"--workdir={workdir}", picture)[2]
    )
    path.unlink()
    assert "is missing, a member of the ensemble" in jaxtl("predict", f"--workdir={workdir}", picture)[2]
    (workdir / "ensemble.json").write_text('{"members": []}')
    assert "is not as the ensemble command writes it" in jaxtl("predict", f"--workdir={workdir}", picture)[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "ensemble takes two runs or more, or one with --flip, --crops=5 or --scales: one is given."),
        (["a", "a"], "a is given twice: give each run once."),
        (["a", "b", "--scales=big"], "--scales=big must be numbers with commas, such as 1.15,1.3."),
        (["a", "b", "--scales=0.5"], "a scale is 0.5, but scales must be from 1 to 4"),
        (["a", "b", "--crops=4"], "crops is 4, but it must be 1 or 5"),
        (["a", "other"], "a and other have other classes, 3 and 3: only a has 'red'; only other has 'pink'."),
        (["a", "binary"], "binary gives each class a yes or no of its own"),
        (["a", "apart"], "the training images and the validation images of apart are others now"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_and_nothing_is_written(runs, jaxtl, tmp_path, words, told):
    facts, config, results = (read(runs[0], f"{name}.json") for name in ("model", "config", "results"))
    changed = {
        "other": ("model", {**facts, "classes": ["pink" if name == "red" else name for name in facts["classes"]]}),
        "binary": ("results", {**results, "loss": "binary"}),
        "apart": ("config", {**config, "data": {**config["data"], "train": "train[50%:]", "val": "train[:10%]"}}),
    }
    if words[-1] in changed:
        name, values = changed[words[-1]]
        variant(runs[0], tmp_path / words[-1], shifted(3))
        (tmp_path / words[-1] / f"{name}.json").write_text(json.dumps(values))
    status, _, error = jaxtl("ensemble", *words, f"--workdir={tmp_path / 'out'}")
    assert status == 1
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
