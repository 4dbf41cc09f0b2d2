"""All metrics and the predictions of a split, on a network of 51 parameters: in one process, on one device to eight."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from meshes import in_eight_devices

from jaxtl.evaluate.metrics import compute_metrics
from jaxtl.evaluate.scaling import quality
from jaxtl.experiment import measuring
from jaxtl.experiment.input_pipeline import compile_image_evaluator
from jaxtl.experiment.measuring import measure, write_predictions
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train.losses import binary_cross_entropy

COUNT = 37


def draw(seed=5):
    """Draws a data set that no batch divides, and variables with a head that says something."""
    variables = tiny.draw_variables()
    variables["params"]["head"]["kernel"] = np.random.default_rng(seed).normal(0, 2, (4, 3)).astype(np.float32)
    return tiny.dataset("some/", COUNT, seed), variables


def measured(batch_size, *, partitioner=None, variables=None, **fields):
    """Measures them, and returns the experiment, what was found, and the accumulators of another pass."""
    dataset, drawn = draw()
    experiment = tiny.experiment(tiny.config(eval__batch_size=batch_size))
    experiment = dataclasses.replace(experiment, partitioner=partitioner or experiment.partitioner, **fields)
    on_devices = experiment.partitioner.shard_state(variables or drawn)
    evaluator = compile_image_evaluator(experiment, on_devices)
    found = measure(experiment, evaluator, on_devices, "test", dataset)
    return experiment, found, evaluator(on_devices, dataset)


def compare(batch_size, partitioner=None):
    """Returns how the predictions fit what is known of them."""
    dataset, variables = draw()
    experiment, found, accumulators = measured(batch_size, partitioner=partitioner)
    logits, labels = found.arrays["test_logits"], found.arrays["test_labels"]
    expected = tiny.logits(variables, [dataset.read(i) for i in range(COUNT)])
    plain = compute_metrics(accumulators, experiment.model.classes)
    kept = {key: found.metrics[key] for key in ("per_class", "ece")}
    return {
        "names": found.arrays["test_names"].tolist() == list(dataset.names),
        "labels": labels.tolist() == dataset.labels.tolist(),
        "apart": float(np.abs(logits - expected).max()),
        "correct": [int((logits.argmax(1) == labels).sum()), int(accumulators["correct"])],
        "ECE": found.metrics["ece"] == quality(labels, logits, sigmoid=False).ece,
        "accuracy": [float((logits.argmax(1) == labels).mean()), found.metrics["accuracy"], plain["accuracy"]],
        "others stay": {**found.metrics, **plain, **kept} == found.metrics,
        "per class": [found.metrics["per_class"][name]["recall"] for name in tiny.CLASSES],
        "by the evaluator": [plain["per_class"][name]["recall"] for name in tiny.CLASSES],
    }


def assert_right(case):
    assert case["names"]
    assert case["labels"]
    assert case["others stay"]
    assert case["ECE"]
    assert case["apart"] < 0.01  # Half of what float16 tells apart at 16.
    assert case["correct"][0] == case["correct"][1]
    assert len(set(case["accuracy"])) == 1
    assert 0.1 < case["accuracy"][0] < 1
    assert case["per class"] == case["by the evaluator"]


def test_predictions_are_those_that_were_counted():
    assert_right(compare(8))


CASES = [f"{name} {size}" for name in ("1 device", "2 devices", "8 devices", "fsdp", "pmap") for size in (8, 16, 40)]


@pytest.fixture(scope="module")
def in_eight():
    return in_eight_devices(__file__)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_any_devices_and_in_any_batches(in_eight, case):
    assert_right(in_eight[case])
    assert in_eight[case]["correct"] == in_eight[CASES[0]]["correct"]


def test_the_file_holds_all_splits_and_their_names(tmp_path):
    experiment, found, _ = measured(8)
    val = {f"val{key.removeprefix('test')}": array for key, array in found.arrays.items()}
    write_predictions(tmp_path, experiment.model.classes, found, measuring.Measured({}, val))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["classes"].tolist() == list(tiny.CLASSES)
        assert set(arrays) == {"classes"} | {f"{s}_{k}" for s in ("val", "test") for k in ("names", "labels", "logits")}
        for key, array in found.arrays.items():
            np.testing.assert_array_equal(arrays[key], array)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring.files.processes, "is_main", lambda: False)
    experiment, found, _ = measured(8)
    write_predictions(tmp_path, experiment.model.classes, found)
    assert not list(tmp_path.iterdir())


def test_a_loss_of_yes_and_no_is_the_log_loss_of_sigmoids():
    _, found, _ = measured(8, loss_name="binary", eval_loss=binary_cross_entropy)
    assert found.metrics["log_loss"] == pytest.approx(found.metrics["loss"], rel=1e-4)  # Of logits in float16.
    _, softmax, _ = measured(8)
    assert softmax.metrics["log_loss"] == pytest.approx(softmax.metrics["loss"], rel=1e-4)
    assert found.metrics["log_loss"] > softmax.metrics["log_loss"]


def test_what_is_left_out_is_said(tmp_path, monkeypatch, capsys):
    _, variables = draw()
    variables["params"]["head"]["bias"] = np.float32([np.inf, 0, 0])
    experiment, found, _ = measured(8, variables=variables)
    assert "some logits are not finite: test has no predictions" in capsys.readouterr().out
    assert ("accuracy" in found.metrics, "intervals" in found.metrics, found.arrays) == (True, False, {})
    write_predictions(tmp_path, experiment.model.classes, found)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(measuring, "_MAX_LOGITS", 110)
    _, found, _ = measured(8)
    assert "37 images x 3 classes are too many logits to keep: test has no" in capsys.readouterr().out
    assert ("accuracy" in found.metrics, "intervals" in found.metrics, found.arrays) == (True, False, {})


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
