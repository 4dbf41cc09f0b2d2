"""Several labels an image on a network of 51 parameters: the same on one device to eight, and thresholds chosen."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from meshes import in_eight_devices
from sklearn import metrics

from jaxtl.evaluate.multilabel import choose_thresholds, log_losses
from jaxtl.experiment import measuring
from jaxtl.experiment.input_pipeline import compile_image_evaluator
from jaxtl.experiment.measuring import measure
from jaxtl.experiment.thresholds import read_thresholds, with_thresholds
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train.losses import binary_cross_entropy

COUNT = 37


def draw(seed=5):
    """Draws images that no batch divides with none to three labels each, and variables that say something of them."""
    rng = np.random.default_rng(seed)
    variables = tiny.draw_variables()
    variables["params"]["head"]["kernel"] = rng.normal(0, 2, (4, 3)).astype(np.float32)
    dataset = tiny.dataset("some/", COUNT, seed)
    return dataclasses.replace(dataset, labels=(rng.random((COUNT, 3)) < 0.4).astype(np.uint8)), variables


def measured(batch_size, partitioner=None, split="test"):
    """Returns the experiment, what was found, and the accumulators of another pass."""
    dataset, variables = draw()
    experiment = tiny.experiment(tiny.config(eval__batch_size=batch_size, train__loss="binary"))
    splits = dataclasses.replace(experiment.splits, test=dataset)
    experiment = dataclasses.replace(
        experiment,
        splits=splits,
        partitioner=partitioner or experiment.partitioner,
        eval_loss=binary_cross_entropy,
        loss_name="binary",
    )
    on_devices = experiment.partitioner.shard_state(variables)
    evaluator = compile_image_evaluator(experiment, on_devices)
    return experiment, measure(experiment, evaluator, on_devices, split, dataset), evaluator(on_devices, dataset)


def compare(batch_size, partitioner=None):
    """Returns what was found beside what scikit-learn says of the logits by hand."""
    dataset, variables = draw()
    _, found, accumulators = measured(batch_size, partitioner)
    logits = tiny.logits(variables, [dataset.read(i) for i in range(COUNT)])
    decided = logits >= 0
    matrices = metrics.multilabel_confusion_matrix(dataset.labels, decided)
    counts = {
        "hits": matrices[:, 1, 1].tolist(),
        "predicted": matrices[:, :, 1].sum(1).tolist(),
        "actual": matrices[:, 1].sum(1).tolist(),
        "mistakes": int((dataset.labels != decided).sum()),
        "correct": int((dataset.labels == decided).all(1).sum()),
        "count": COUNT,
    }
    names = ("accuracy", "subset_accuracy", "hamming_loss", "f1", "map", "loss", "log_loss")
    average = {"average": "macro", "zero_division": 0}
    subset, f1 = metrics.accuracy_score(dataset.labels, decided), metrics.f1_score(dataset.labels, decided, **average)
    loss = float(log_losses(dataset.labels, logits).mean())
    mean = metrics.average_precision_score(dataset.labels, logits, average="macro")
    hamming = metrics.hamming_loss(dataset.labels, decided)
    return {
        "counted": {key: np.asarray(accumulators[key]).tolist() for key in counts},
        "counts": counts,
        "found": {key: found.metrics[key] for key in names},
        "expected": dict(zip(names, (subset, subset, hamming, f1, mean, loss, loss), strict=True)),
        "labels": bool((found.arrays["test_labels"] == dataset.labels).all()),
        "apart": float(np.abs(found.arrays["test_logits"] - logits).max()),
    }


def assert_right(case):
    assert case["counted"] == case["counts"]
    assert case["found"] == pytest.approx(case["expected"], rel=1e-5)
    assert case["labels"]
    assert case["apart"] < 0.01  # Half of what float16 tells apart at 16.


def test_measured_as_by_hand():
    assert_right(compare(8))


CASES = [f"{name} {size}" for name in ("1 device", "2 devices", "8 devices", "fsdp", "pmap") for size in (8, 16, 40)]


@pytest.fixture(scope="module")
def in_eight():
    return in_eight_devices(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_any_devices_and_in_any_batches(in_eight, case):
    assert_right(in_eight[case])


def test_thresholds_are_chosen_on_val_and_measured_on_all():
    experiment, test, _ = measured(8)
    _, val, _ = measured(8, split="val")
    found = with_thresholds(experiment, {"val": val, "test": test})
    labels, logits = (test.arrays[f"test_{key}"] for key in ("labels", "logits"))
    cuts = choose_thresholds(labels, logits.astype(np.float32))
    assert found == {"thresholds": dict(zip(tiny.CLASSES, cuts.tolist(), strict=True))}
    decided = 1 / (1 + np.exp(-logits.astype(np.float64))) >= cuts
    for each in (val, test):
        there = each.metrics["at_thresholds"]
        assert there["subset_accuracy"] == metrics.accuracy_score(labels, decided)
        assert there["macro"]["f1"] == pytest.approx(metrics.f1_score(labels, decided, average="macro"))
        assert there["macro"]["f1"] >= each.metrics["macro"]["f1"]
    # Those of a run go for other images, and a class that it has none for has the default.
    with_thresholds(experiment, {"test": test}, {"red": 1.1, "green": 0.0})
    of_class = test.metrics["at_thresholds"]["per_class"]
    assert (of_class["red"]["recall"], of_class["green"]["recall"]) == (0, 1)
    assert of_class["blue"] == {key: test.metrics["per_class"]["blue"][key] for key in of_class["blue"]}


def test_without_logits_there_are_no_thresholds(monkeypatch):
    monkeypatch.setattr(measuring, "_MAX_LOGITS", 110)
    experiment, val, _ = measured(8, split="val")
    assert "hamming_loss" in val.metrics
    assert with_thresholds(experiment, {"val": val}) == {}


def test_thresholds_are_read_or_said_to_be_missing(tmp_path, capsys):
    assert read_thresholds(tmp_path) == {}
    assert "since it is not finished: 0.5 is taken for all" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{}")
    assert read_thresholds(tmp_path) == {}
    assert "since its logits on val were not kept" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"thresholds": {"red": 0.25}}')
    assert read_thresholds(tmp_path) == {"red": 0.25}
    assert capsys.readouterr().err == ""


if __name__ == "__main__":
    devices = jax.devices()
    partitioners = {
        "1 device": make_partitioner(devices=devices[:1]),
        "2 devices": make_partitioner(devices=devices[:2]),
        "8 devices": make_partitioner(),
        "fsdp": make_partitioner(mesh={"data": 2, "fsdp": 4}),
        "pmap": make_partitioner("pmap"),
    }
    print(json.dumps({case: compare(int(case.split()[-1]), partitioners[case.rsplit(" ", 1)[0]]) for case in CASES}))
