"""Several labels an image from a table to predictions: trained, measured, predicted with, reported, and refused."""

import json
import shutil

import numpy as np
import pytest
import transformers
from PIL import Image
from sklearn import metrics

NAMES = ("blue", "green", "red")


def draw(folder, count=80):
    """Noisy pictures of which each colour brightens its part; returns which colours each has."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    there = rng.random((count, 3)) < 0.4
    for number, colours in enumerate(there):
        pixels = rng.integers(0, 100, (20, 24, 3))
        for channel, present in zip((2, 1, 0), colours, strict=True):
            pixels[..., channel] += 120 * present
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    return there


def labels_of(row):
    return [name for name, present in zip(NAMES, row, strict=True) if present]


def write(folder, there, kind="csv"):
    path = folder / f"table.{kind}"
    images = [f"{number:03}.png" for number in range(len(there))]
    if kind == "csv":
        rows = [f"{image},{';'.join(labels_of(row))}" for image, row in zip(images, there, strict=True)]
        path.write_text("\n".join(["image,labels", *rows]))
    else:
        rows = [{"image": image, "labels": labels_of(row)} for image, row in zip(images, there, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="session")
def several(once, trained):
    """A run with several labels an image, trained once for all tests; gives the folders of the images and of it."""
    images = once("several images", lambda folder: write(folder, draw(folder)))
    flags = ("--config.train.loss=binary", "--config.train.steps=60", "--config.train.eval_every=20")
    source = f"--config.data.source=csv:{images / 'table.csv'}"
    return images, trained("several", source, "--config.eval.report=true", *flags) / "run"


@pytest.mark.slow
def test_a_run_measures_each_label_and_chooses_thresholds(several):
    images, run = several
    results = json.loads((run / "results.json").read_text())
    assert results["classes"] == list(NAMES)
    assert json.loads((run / "model.json").read_text())["several_labels"] is True
    assert set(results["thresholds"]) == set(NAMES)
    assert results["monitor"] == "accuracy"
    with np.load(run / "predictions.npz") as arrays:
        kept = {key: arrays[f"test_{key}"] for key in ("names", "labels", "logits")}
    test, decided = results["test"], kept["logits"] >= 0
    assert kept["labels"].dtype == np.uint8
    assert kept["labels"].shape == kept["logits"].shape == (test["count"], 3)
    written = dict(line.split(",") for line in (images / "table.csv").read_text().splitlines()[1:])
    assert [";".join(labels_of(row)) for row in kept["labels"]] == [written[name] for name in kept["names"]]
    assert test["accuracy"] == test["subset_accuracy"] == metrics.accuracy_score(kept["labels"], decided)
    assert test["hamming_loss"] == pytest.approx(metrics.hamming_loss(kept["labels"], decided))
    assert test["map"] > 0.8
    cuts = np.array([results["thresholds"][name] for name in NAMES])
    at = 1 / (1 + np.exp(-kept["logits"].astype(np.float64))) >= cuts
    assert test["at_thresholds"]["subset_accuracy"] == metrics.accuracy_score(kept["labels"], at)
    assert "confusion_matrix" not in test
    assert "calibration" not in results
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    val = [line for line in lines if line["split"] == "val"]
    assert all({"map", "hamming_loss", "f1", "loss"} <= line.keys() for line in val)
    printed = (run.parent / "printed").read_text()
    assert "subset accuracy" in printed
    assert "an image has up to 3 of 3 labels in train" in printed


@pytest.mark.slow
def test_predictions_list_labels_above_their_thresholds(several, jaxtl):
    images, run = several
    status, out, err = jaxtl("predict", f"--workdir={run}", images / "000.png", images / "001.png")
    assert (status, err) == (0, "")
    thresholds = json.loads((run / "results.json").read_text())["thresholds"]
    for line in map(json.loads, out.splitlines()):
        above = [each["class"] for each in line["top5"] if each["probability"] >= thresholds[each["class"]]]
        assert line["labels"] == above
        assert set(line) == {"file", "labels", "top5"}
    for flag in ("--calibrated", "--operating_points", "--reject_below=0.5"):
        status, _, err = jaxtl("predict", f"--workdir={run}", flag, images / "000.png")
        assert status == 1
        assert "have several labels, each with a threshold of its own: do without" in err


@pytest.mark.slow
def test_transformers_gives_the_probabilities_of_each_label_by_itself(several, jaxtl, tmp_path):
    images, run = several
    assert jaxtl("export", f"--workdir={run}", "--format=hf", f"--output={tmp_path / 'hf'}")[0] == 0
    said = json.loads(jaxtl("predict", f"--workdir={run}", images / "000.png")[1])
    expected = {each["class"]: each["probability"] for each in said["top5"]}
    pipeline = transformers.pipeline("image-classification", str(tmp_path / "hf"))
    found = {each["label"]: each["score"] for each in pipeline(str(images / "000.png"))}
    assert sum(found.values()) > 1.5
    assert found == pytest.approx(expected, abs=0.01)  # Its processor resizes a little otherwise.


@pytest.mark.slow
def test_other_images_are_measured_by_the_names_of_their_labels(several, jaxtl, tmp_path):
    images, run = several
    there = draw(tmp_path / "others", 12) & [True, False, True]  # No green: the columns are others.
    table = write(tmp_path / "others", there, "jsonl")
    weights = f"--config.model.weights=run:{run}"
    status, out, err = jaxtl("eval", f"--workdir={tmp_path / 'check'}", weights, f"--config.data.source=jsonl:{table}")
    assert (status, err) == (0, "")
    assert "subset accuracy" in out
    found = json.loads((tmp_path / "check" / "results.json").read_text())
    assert found["thresholds"] == json.loads((run / "results.json").read_text())["thresholds"]
    assert {name: each["count"] for name, each in found["test"]["per_class"].items()} == dict(
        zip(NAMES, there.sum(0).tolist(), strict=True)
    )
    assert "at_thresholds" in found["test"]
    assert (tmp_path / "check" / "report" / "index.html").exists()
    del images


@pytest.mark.slow
def test_the_page_shows_labels_and_where_they_are_wrong(several):
    page = (several[1] / "report" / "index.html").read_text()
    for text in (
        "mean average precision (mAP)",
        "Hamming loss",
        "threshold",
        "with all labels right",
        "subset accuracy",
    ):
        assert text in page
    assert 'id="confusion"' not in page
    assert 'id="curves"' in page


@pytest.mark.slow
def test_what_several_labels_have_not_is_refused_in_a_line(several, jaxtl, tmp_path):
    _, run = several
    other = shutil.copytree(run, tmp_path / "other")
    for command, text in (
        (("operating_points", f"--workdir={run}", "--precision=0.9"), "operating points are for one label an image"),
        (("compare", run, other, f"--output={tmp_path / 'c'}"), "have several labels, and compare pairs images"),
        (("report", f"--workdir={run}", "--map"), "have several labels, and these speak of one class an image: map"),
        (
            ("export", f"--workdir={run}", f"--output={tmp_path / 'e.safetensors'}", "--calibrated"),
            "calibration is for",
        ),
    ):
        status, _, err = jaxtl(*command)
        assert (status, text in err) == (1, True), err
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--config.augment.mixup=0.4", "--config.augment.cutmix=1.0"),
        ("--config.finetune.unfreeze=head", "--config.augment.crop=none", "--config.augment.flip=0"),
        ("--config.train.monitor=map", "--config.train.parallel=pmap", "--config.train.accumulate=2"),
    ],
)
def test_other_ways_to_train(several, train, flags):
    status, out, err = train(
        "--config.train.loss=binary", *flags, source=f"csv:{several[0] / 'table.csv'}", workdir="other"
    )
    assert (status, err) == (0, "")
    assert "subset accuracy" in out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((), 'the loss "softmax" takes one label an image, and these images have several, or none: give "binary".'),
        (("--config.train.loss=focal",), 'the loss "focal" takes one label an image'),
        (
            ("--config.train.loss=binary", "--config.train.class_weights=balanced"),
            "class weights weigh images by",
        ),
        (("--config.train.loss=binary", "--config.train.monitor=top5"), "of several labels an image there is no top-5"),
        (
            ("--config.train.loss=binary", "--config.train.sampling=sqrt"),
            'train.sampling is "sqrt", but the images have several labels: it draws one class an image',
        ),
    ],
)
def test_what_does_not_go_together(train, tmp_path, flags, text):
    table = write(tmp_path / "images", draw(tmp_path / "images", 20))
    status, _, err = train(*flags, source=f"csv:{table}")
    assert status == 1
    assert text in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_one_label_has_no_map(train):
    status, _, err = train("--config.train.monitor=map")
    assert status == 1
    assert 'train.monitor is "map", which only several labels an image have' in err


def test_a_run_of_one_label_is_not_measured_on_several(plain, jaxtl, tmp_path):
    table = write(tmp_path / "images", draw(tmp_path / "images", 12))
    weights = f"--config.model.weights=run:{plain / 'run'}"
    status, _, err = jaxtl("eval", f"--workdir={tmp_path / 'check'}", weights, f"--config.data.source=csv:{table}")
    assert status == 1
    assert 'the run was trained for one, with the loss "softmax": give data with one label' in err
