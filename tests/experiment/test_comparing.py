import json
import shutil

import numpy as np
import pytest
from compared import NAMES, write_eval, write_run, write_unfinished

from jaxtl.errors import UserError
from jaxtl.evaluate.metrics import wilson_interval
from jaxtl.experiment.comparing import compare, read_runs, short_names


def of(*workdirs, **options):
    return compare(read_runs(workdirs), **options)


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_two_runs_differ_by_what_their_results_say(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    found = of(*runs)
    assert (found.split, found.paired.baseline, found.notes) == ("test", "a", [])
    differences, (a, b) = found.paired.differences["b"], found.metrics.values()
    # Predictions are kept in float16.
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"):
        assert differences[name].value == pytest.approx(b[name] - a[name], abs=2e-3)
        low, high = differences[name].interval
        assert low <= differences[name].value <= high
    right = [(np.load(run / "predictions.npz")["test_logits"].argmax(1) == np.arange(30) % 3) for run in runs]
    test = found.paired.tests["b"]
    assert (test.only_first, test.only_second) == ((right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum())
    assert found.paired.adjusted == {"b": test.p}
    assert (found.metrics["a"]["count"], "per_class" in found.metrics["a"]) == (30, False)


def test_a_run_against_its_copy_differs_by_nothing(tmp_path):
    run = write_run(tmp_path / "a")
    found = of(run, shutil.copytree(run, tmp_path / "b"))
    assert all((each.value, each.interval) == (0, [0, 0]) for each in found.paired.differences["b"].values())
    assert (found.paired.tests["b"].p, found.paired.of_loss["b"], found.config) == (1, (1, 1), {})


def test_a_run_that_is_given_twice_is_an_error(tmp_path):
    run = write_run(tmp_path / "a")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(UserError, match=r"a is given twice: give each run once"):
        read_runs([run, run])
    with pytest.raises(UserError, match=r"link is given twice \(as .*/a and .*/link\): give each run once"):
        read_runs([run, tmp_path / "link"])


def test_the_order_of_images_and_classes_changes_nothing(tmp_path):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", seed=1)
    expected = of(first, second).paired
    arrays = dict(np.load(second / "predictions.npz"))
    images, classes = np.random.default_rng(0).permutation(30), [2, 0, 1]
    arrays["classes"] = arrays["classes"][classes]
    for key in ("names", "labels", "logits"):
        arrays[f"test_{key}"] = arrays[f"test_{key}"][images]
    arrays["test_labels"] = np.argsort(classes)[arrays["test_labels"]]
    arrays["test_logits"] = arrays["test_logits"][:, classes]
    np.savez(second / "predictions.npz", **arrays)
    found = of(first, second).paired
    assert found.tests == expected.tests
    for name, difference in found.differences["b"].items():
        assert difference.value == pytest.approx(expected.differences["b"][name].value)
        assert difference.interval == pytest.approx(expected.differences["b"][name].interval, abs=1e-6)


def test_configs_differ_in_the_keys_that_differ(tmp_path):
    rules = {"finetune.lr_multipliers": {"block.*": 0.1}, "train.seed": 3}
    runs = [write_unfinished(tmp_path / "a"), write_unfinished(tmp_path / "b", config=rules)]
    change(runs[0] / "config.json", model={})  # Of an older version: keys that it lacks have their default.
    assert of(*runs).config == {
        "finetune.lr_multipliers": {"a": {}, "b": {"block.*": 0.1}},
        "train.seed": {"a": 0, "b": 3},
    }


def test_a_run_that_never_finished_takes_part_without_metrics(tmp_path):
    begun = write_unfinished(tmp_path / "begun")
    runs = [begun, write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)]
    found = of(*runs)
    assert found.metrics["begun"] == {}
    assert (found.paired.baseline, list(found.paired.differences)) == ("a", ["b"])
    assert found.notes == [
        "begun is not finished (step 10): only its learning curves and its config are compared",
        "begun has no predictions, so the others are compared with a",
    ]
    assert [line["split"] for line in found.runs[0].lines] == ["train", "val"]
    (begun / "metrics.jsonl").unlink()  # It has no checkpoint either.
    assert of(*runs).notes[0].startswith("begun is not finished (step 0)")


def test_fewer_than_two_runs_with_predictions_have_no_differences(tmp_path):
    run, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (other / "predictions.npz").unlink()
    found = of(run, other)
    assert found.paired is None
    assert "b has no predictions" in found.notes[0]
    assert found.notes[1] == "fewer than two runs have predictions: there are no paired differences"
    assert found.metrics["b"]["accuracy"] > 0


def test_evaluations_are_compared_with_runs(tmp_path):
    found = of(write_eval(tmp_path / "eval"), write_run(tmp_path / "run", seed=1))
    assert (list(found.runs[0].lines), found.runs[0].splits) == ([], ["test"])
    assert found.paired.baseline == "eval"


def test_val_is_compared_where_a_run_has_no_test(tmp_path):
    names = [name.replace("test", "val") for name in NAMES[:20]]
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, splits={"val": names})]
    found = of(*runs)
    assert (found.split, found.metrics["a"]["count"]) == ("val", 20)
    assert found.notes[0] == "compared on val, since there are no predictions of test in b"
    with pytest.raises(UserError, match=r"b has no predictions of test, only of val"):
        of(*runs, split="test")
    with pytest.raises(UserError, match="no split of which all runs have predictions"):
        of(write_eval(tmp_path / "eval"), runs[1])


def test_other_images_are_an_error_or_the_shared_ones_are_compared(tmp_path):
    other = write_run(tmp_path / "b", seed=1, splits={"test": [*NAMES[10:], "test/99.png"]})
    runs = [write_run(tmp_path / "a"), other]
    with pytest.raises(UserError, match=r"a 30, b 21, of which 20 are shared"):
        of(*runs)
    found = of(*runs, shared=True)
    assert found.notes == ["only the 20 images that all have are compared: a has 10 more, b has 1 more"]
    assert found.metrics["a"]["count"] == 20
    accuracy = found.metrics["a"]["accuracy"]
    assert found.metrics["a"]["accuracy_interval"] == wilson_interval(round(20 * accuracy), 20)
    difference = found.metrics["b"]["accuracy"] - found.metrics["a"]["accuracy"]
    assert found.paired.differences["b"]["accuracy"].value == pytest.approx(difference)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "fox")])
def test_another_set_of_classes_is_an_error(tmp_path, classes):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", classes=classes)]
    with pytest.raises(UserError, match="only a has 'emu'"):
        of(*runs)


def test_an_empty_split_is_an_error(tmp_path):
    empty = write_run(tmp_path / "b", splits={"test": []})
    with pytest.raises(UserError, match=r"test of .*b holds no images"):
        of(write_run(tmp_path / "a"), empty)


def test_a_test_set_may_lack_classes(tmp_path):
    names = [f"test/{number:02}.png" for number in range(0, 60, 3)]  # Cats alone.
    found = of(*(write_run(tmp_path / name, seed=seed, splits={"test": names}) for seed, name in enumerate("ab")))
    assert found.paired.differences["b"]["balanced_accuracy"] == found.paired.differences["b"]["accuracy"]
    assert "macro_roc_auc" in found.metrics["a"]
    assert found.metrics["a"]["macro_roc_auc"] is None


def test_two_classes_from_one_logit(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed, classes=("no", "yes")) for seed, name in enumerate("ab")]
    expected = of(*runs).paired
    for run in runs:
        arrays = dict(np.load(run / "predictions.npz"))
        arrays["test_logits"] = np.diff(arrays["test_logits"].astype(np.float32))
        np.savez(run / "predictions.npz", **arrays)
    found = of(*runs).paired
    assert found.tests == expected.tests
    assert found.differences["b"]["log_loss"].value == pytest.approx(expected.differences["b"]["log_loss"].value)


def test_log_losses_of_sigmoids_and_of_a_softmax_are_not_compared(tmp_path):
    found = of(write_run(tmp_path / "a"), write_run(tmp_path / "b", loss="binary"))
    assert list(found.paired.differences["b"]) == ["accuracy", "balanced_accuracy", "macro_f1", "ece"]
    assert "no differences are given" in found.notes[0]
    sigmoids = of(tmp_path / "b", write_run(tmp_path / "c", seed=1, loss="binary"))
    losses = [sigmoids.metrics[name]["log_loss"] for name in "bc"]
    assert sigmoids.paired.differences["c"]["log_loss"].value == pytest.approx(losses[1] - losses[0], abs=2e-3)


def test_numbered_images_of_other_sources_are_remarked(tmp_path):
    names = [f"test/{number}" for number in range(10, 40)]
    runs = [write_run(tmp_path / name, splits={"test": NAMES}) for name in "ab"]
    for run, source in zip(runs, ("npz:old.npz", "npz:new.npz"), strict=True):
        arrays = dict(np.load(run / "predictions.npz"))
        np.savez(run / "predictions.npz", **{**arrays, "test_names": np.array(names)})
        change(run / "results.json", data=source)
    (note,) = of(*runs).notes
    assert note == (
        "images are known by their number in a split alone, and the sources differ (a: npz:old.npz, b: npz:new.npz)"
    )


def test_folders_without_a_run_are_errors(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=r"there is no folder .*/none"):
        read_runs([run, tmp_path / "none"])
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"there is no run in .*/probe: give the workdirs of train or eval"):
        read_runs([run, tmp_path / "probe"])


def test_damaged_files_are_named(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    (runs[1] / "predictions.npz").write_bytes((runs[1] / "predictions.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"b/predictions.npz cannot be read"):
        of(*runs)
    (runs[0] / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"a/results.json cannot be read"):
        of(*runs)


def test_names_are_short_and_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_names([tmp_path / "x", tmp_path / "y" / "."]) == ["x", "y"]
    assert len(set(short_names([tmp_path, tmp_path, tmp_path]))) == 3
