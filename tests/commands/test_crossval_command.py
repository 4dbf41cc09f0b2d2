import json
import shutil

import numpy as np
import pytest

from jaxtl.evaluate.predictions import read_predictions


@pytest.fixture
def crossval(jaxtl, config_file, pictures, tmp_path):
    """Cross-validates the tiny config on 60 pictures of three classes."""

    def run(*flags, workdir="cv", source=None):
        return jaxtl(
            "crossval",
            f"--config={config_file}",
            f"--workdir={tmp_path / workdir}",
            f"--config.data.source={source or f'folder:{pictures}'}",
            *flags,
        )

    return run


def test_probes_of_all_folds(crossval, tmp_path):
    status, out, err = crossval("--folds=3", "--repeats=2", "--probe", "--config.train.class_weights=balanced")
    assert (status, err) == (0, "")
    assert "note      probes weigh all images alike: train.class_weights counts in training only" in out
    assert "3 folds x 2 repeats of train (60 images), linear probes of frozen features" in out
    results = json.loads((tmp_path / "cv" / "crossval.json").read_text())
    assert [(fold["repeat"], fold["fold"]) for fold in results["per_fold"]] == [
        (repeat, fold) for repeat in (1, 2) for fold in (1, 2, 3)
    ]
    # Even untrained, the mean over the patches keeps the colour that tells the classes apart.
    low, high = results["metrics"]["accuracy"]["interval"]
    assert low <= results["metrics"]["accuracy"]["mean"] <= high
    assert results["metrics"]["accuracy"]["mean"] > 0.8
    assert {name: of["count"] for name, of in results["per_class"].items()} == {"blue": 20, "green": 20, "red": 20}
    assert str(tmp_path / "cv" / "crossval.html") in out
    page = (tmp_path / "cv" / "crossval.html").read_text()
    assert f"Accuracy {100 * results['metrics']['accuracy']['mean']:.1f} %" in page
    classes, kept = read_predictions(tmp_path / "cv" / "predictions.npz")
    assert classes == ("blue", "green", "red")
    for repeat in (1, 2):
        of = kept[f"repeat{repeat}"]
        assert len(set(of.names)) == len(of.names) == 60
        assert all(name.startswith("train/") for name in of.names)
        right = of.logits.argmax(1) == of.labels
        accuracies = [fold["accuracy"] for fold in results["per_fold"] if fold["repeat"] == repeat]
        with np.load(tmp_path / "cv" / "predictions.npz") as arrays:
            numbers = arrays[f"repeat{repeat}_folds"]
        assert [right[numbers == number].mean() for number in (1, 2, 3)] == pytest.approx(accuracies)


@pytest.mark.slow
def test_runs_are_kept_and_what_is_missing_is_trained(crossval, tmp_path):
    status, out, err = crossval("--folds=2")
    assert (status, err) == (0, "")
    first = json.loads((tmp_path / "cv" / "crossval.json").read_text())
    config = json.loads((tmp_path / "cv" / "fold1of2" / "config.json").read_text())
    assert (config["data"]["train"], config["data"]["test"]) == ("train[not fold 1/2]", "train[fold 1/2]")
    of_fold = json.loads((tmp_path / "cv" / "fold1of2" / "results.json").read_text())
    assert of_fold["test"]["count"] == first["per_fold"][0]["count"]
    assert first["per_fold"][0]["accuracy"] == pytest.approx(of_fold["test"]["accuracy"])
    assert first["per_fold"][0]["log_loss"] == pytest.approx(of_fold["test"]["log_loss"], abs=1e-3)
    kept = (tmp_path / "cv" / "fold1of2" / "results.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "cv" / "fold2of2")
    status, out, err = crossval("--folds=2")
    assert (status, err) == (0, "")
    assert "fold 1/2 (1 of 2)" in out
    assert "fold1of2: finished already" in out
    assert (tmp_path / "cv" / "fold1of2" / "results.json").stat().st_mtime_ns == kept
    again = json.loads((tmp_path / "cv" / "crossval.json").read_text())
    assert again["metrics"] == first["metrics"]
    status, _, err = crossval("--folds=3")
    assert (status, "holds a cross-validation of 2 folds (fold1of2, fold2of2): give --folds=2" in err) == (1, True)
    status, _, err = crossval("--folds=2", "--config.optimizer.learning_rate=0.5")
    assert (status, "of another config" in err) == (1, True)


def test_data_that_changed_since_a_fold_was_finished(crossval, pictures, tmp_path):
    """Finished folds are read before anything is trained, so no run need be there but its files."""
    from jaxtl import config as config_lib
    from jaxtl.evaluate.predictions import as_arrays
    from jaxtl.experiment.cross_validation import Fold, fold_config

    config = config_lib.load(str(tmp_path / "tiny.py"), {"data.source": f"folder:{pictures}"})
    folder = tmp_path / "cv" / "fold1of2"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    of_fold = config_lib.to_dict(fold_config(config, "train", Fold(1, 2)))
    (folder / "config.json").write_text(json.dumps(of_fold))
    arrays = as_arrays("test", ["train/red/000.png"], np.array([2]), np.zeros((1, 3), np.float32))
    np.savez(folder / "predictions.npz", classes=np.array(["blue", "green", "red"]), **arrays)
    status, _, err = crossval("--folds=2")
    assert status == 1
    assert "was tested on other images than its fold has now: the data have changed since" in err
    assert not (tmp_path / "cv" / "fold2of2").exists()
    (tmp_path / "cv" / "config.json").write_text("as it was")
    status, _, err = crossval("--folds=2", "--config.optimizer.learning_rate=0.5")
    assert (status, "of another config" in err) == (1, True)
    assert (tmp_path / "cv" / "config.json").read_text() == "as it was"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--folds=1"], "--folds=1 --repeats=1: it takes two folds or more, one repeat or more."),
        (
            ["--folds=21"],
            "21 folds are more than the images of a class: 20 of blue, 20 of green, 20 of red",
        ),
        (["--config.data.test=test"], 'data.test is "test", but each fold is tested on in turn: leave it out'),
        (["--config.data.train=train[:50%]"], "a whole split is cut into folds"),
        (["--config.data.val=train[90%:]"], "share"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(crossval, tmp_path, flags, said):
    status, _, err = crossval(*flags)
    assert (status, said in err) == (1, True), err
    assert not list(tmp_path.glob("cv/*fold*"))


def test_a_group_on_both_sides_of_a_given_split_and_too_few_groups(crossval, jaxtl, config_file, pictures, tmp_path):
    def table(name, group, split=""):
        rows = [
            f"train/{colour}/{i:03}.png,{colour},{group(colour, i)}{',' + split(i) if split else ''}"
            for colour in ("red", "green", "blue")
            for i in range(20)
        ]
        (pictures / name).write_text("\n".join(["image,label,group" + ",split" * bool(split), *rows]))
        return f"csv:{pictures / name}"

    both = table("both.csv", lambda colour, i: f"{colour}{i // 2}", lambda i: "test" if i > 14 else "train")
    status, _, err = jaxtl(
        "train", f"--config={config_file}", f"--workdir={tmp_path / 'r'}", f"--config.data.source={both}"
    )
    assert status == 1
    assert err.startswith("error: 3 groups of images are on both sides of a split: train 'train' and test 'test' share")
    assert "\n" not in err.strip().partition("\n(set with")[0]
    few = table("few.csv", lambda colour, i: f"{colour}{i // 5}")
    status, _, err = crossval("--folds=5", source=few)
    assert (status, "5 folds are more than the groups of a class: 4 of blue" in err) == (1, True)
    status, _, err = crossval("--folds=4", "--probe", source=few)
    assert (status, err) == (0, "")
    with np.load(tmp_path / "cv" / "predictions.npz") as arrays:
        names, numbers = arrays["repeat1_names"], arrays["repeat1_folds"]
    fold = {(name.split("/")[1], int(name[-7:-4]) // 5): set() for name in names}
    for name, number in zip(names, numbers, strict=True):
        fold[name.split("/")[1], int(name[-7:-4]) // 5].add(int(number))
    assert all(len(numbers) == 1 for numbers in fold.values())
