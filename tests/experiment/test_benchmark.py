"""The steps of a config, timed: what is timed, what is counted, and what is made of it."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import tiny

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment import benchmark
from jaxtl.experiment.input_pipeline import read_images
from jaxtl.profiling.timing import Timing
from jaxtl.trees import flatten

COST = {"step_gflop": 6e3, "optimizer_bytes": 1, "temp_bytes": 20, "peak_bytes": 300}


def test_noise_needs_neither_data_nor_weights(config, tmp_path):
    config.data.source, config.model.weights = "folder:nowhere", "nowhere.safetensors"
    experiment, inputs = benchmark.build_for_bench(config, tmp_path, "synthetic")
    assert not inputs.cached
    first, second = itertools.islice(inputs.batches(0), 2)
    assert {key: (x.shape, x.dtype.name) for key, x in first.items()} == {
        "image": ((8, 16, 16, 3), "uint8"),
        "label": ((8,), "int32"),
        "mask": ((8,), "float32"),
    }
    assert first["label"].tolist() == list(range(8))  # Of the thousand classes that nothing says more of.
    assert first["mask"].tolist() == [1.0] * 8
    assert first["image"].std() > 70  # Zeros may be multiplied faster.
    assert second["image"] is first["image"]
    assert not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in flatten(experiment.variables).values())
    assert experiment.variables["params"]["head"]["kernel"].shape == (16, 1000)
    with pytest.raises(AssertionError, match="evaluates nothing"):
        inputs.compile_evaluator(experiment.variables)
    assert list(tmp_path.iterdir()) == [tmp_path / "pictures"]


def test_a_batch_that_the_devices_cannot_share_is_refused(config, tmp_path):
    config.train.batch_size = 9
    with pytest.raises(UserError, match=r"train.batch_size is 9, .*2 devices: give a multiple of 2, such as 10"):
        benchmark.build_for_bench(config, tmp_path, "synthetic")


def counted(experiment):
    """The inputs of an experiment, and a list of the steps that batches were asked of, and one of those taken."""
    inputs, begun, taken = read_images(experiment), [], []

    def batches(start):
        begun.append(start)
        for batch in inputs.batches(start):
            taken.append(batch)
            yield batch

    return dataclasses.replace(inputs, batches=batches), begun, taken


@pytest.mark.parametrize(("source", "count"), [("synthetic", 1), ("real", 5)])
def test_noise_is_one_batch_over_and_over_and_data_one_a_step(source, count):
    experiment = tiny.experiment(
        tiny.config(finetune__stages=({"steps": 2, "unfreeze": "head"}, {"steps": 2, "unfreeze": "all"}))
    )
    inputs, begun, taken = counted(experiment)
    timing, cost, compiling = benchmark.measure(experiment, inputs, source=source, steps_to_time=3, warmup=2)
    assert (begun, len(taken)) == ([0], count)
    assert (timing.dispatched.shape, timing.done.shape) == ((3,), (4,))
    assert compiling > 0
    # The step of the first stage: all forward, and the gradient of the head's kernel.
    assert cost["step_gflop"] * 1e9 == pytest.approx(8 * (tiny.STEM + tiny.BODY + 2 * tiny.HEAD))
    assert cost.keys() == {"step_gflop", "optimizer_bytes", "temp_bytes", "peak_bytes"}


def test_what_is_made_of_a_timing(monkeypatch):
    monkeypatch.setattr(benchmark, "peak_tflops", lambda kind: {"cpu": 12.0}[kind])
    # Steps of 1, 1 and 4 seconds; the devices waited for the last one for 2.
    timing = Timing(dispatched=np.array([0.0, 0.5, 4.0]), done=np.array([0.0, 1.0, 2.0, 6.0]))
    found = benchmark.measurements(timing, COST, batch_size=8, devices=2)
    host = found["memory_bytes"].pop("host_peak")
    assert 2**24 < host < 2**40
    assert found == {
        "images_per_second": 4.0,
        "step_seconds": {"mean": 2.0, "p50": 1.0, "p90": pytest.approx(3.4), "p99": pytest.approx(3.94)},
        "waiting_for_data": pytest.approx(1 / 3),
        "step_gflop": 6e3,
        "tflops_per_device": 1.5,
        "peak_tflops_per_device": 12.0,
        "mfu": 0.125,
        "memory_bytes": {"step_alone": 20, "step_in_all": 300, "device_peak": None},
    }


def test_no_utilisation_is_made_up_for_a_device_that_nobody_knows():
    timing = Timing(dispatched=np.array([0.0]), done=np.array([0.0, 2.0]))
    found = benchmark.measurements(timing, COST, batch_size=8, devices=1)
    assert (found["tflops_per_device"], found["peak_tflops_per_device"], found["mfu"]) == (3.0, None, None)


def without_data(experiment):
    none = experiment.splits.train.take(np.array([], int))
    return dataclasses.replace(experiment, splits=data.Splits(none, none, None, ()))


@pytest.mark.parametrize(
    ("keys", "there", "expected"),
    [
        ({}, True, {"steps": 3, "images": 24, "epochs": 1.0, "seconds": 6.0}),
        ({"train__steps": 0, "train__epochs": 2.5}, True, {"steps": 8, "images": 64, "epochs": 8 / 3, "seconds": 16.0}),
        ({}, False, {"steps": 3, "images": 24, "epochs": None, "seconds": 6.0}),
        ({"train__steps": 0, "train__epochs": 2.5}, False, None),
        (
            {"finetune__stages": ({"steps": 2, "unfreeze": "head"}, {"steps": 5, "unfreeze": "all"})},
            False,
            {"steps": 7, "images": 56, "epochs": None, "seconds": 14.0},
        ),
        ({"finetune__stages": ({"steps": 2, "unfreeze": "head"}, {"epochs": 1, "unfreeze": "all"})}, False, None),
    ],
)
def test_a_run_takes_its_steps_times_their_time_where_data_do_not_decide(keys, there, expected):
    experiment = tiny.experiment(tiny.config(**keys))
    assert benchmark.estimate(experiment if there else without_data(experiment), 2.0) == expected


def test_the_machine_is_told_in_plain_values():
    found = benchmark.machine(tiny.experiment(tiny.config()).partitioner)
    assert found == {"device": "cpu", "devices": 2, "processes": 1, "jax": jax.__version__}
    assert json.loads(json.dumps(found)) == found
