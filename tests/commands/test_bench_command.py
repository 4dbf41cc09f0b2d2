import json

import numpy as np
import pytest

from jaxtl.experiment import benchmark
from jaxtl.profiling.timing import Timing

COMMON = ("--config.data.source=folder:nowhere", "--steps=2")
KEYS = {"images_per_second", "step_seconds", "waiting_for_data", "step_gflop", "mfu", "memory_bytes", "seconds", "run"}


@pytest.mark.slow
def test_a_config_is_timed_without_data_or_weights(jaxtl, config_file, tmp_path):
    status, out, err = jaxtl(
        "bench",
        f"--config={config_file}",
        f"--workdir={tmp_path / 'b'}",
        "--config.data.source=folder:nowhere",
        "--config.model.weights=nowhere.safetensors",
        "--steps=4",
    )
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert found.keys() >= KEYS
    step = found["step_seconds"]
    assert 0 < step["p50"] <= step["p90"] <= step["p99"]
    assert found["images_per_second"] == pytest.approx(8 / step["mean"])
    # No device of this kind is in the table, and none is made up.
    assert (found["device"], found["peak_tflops_per_device"], found["mfu"]) == ("cpu", None, None)
    assert found["step_gflop"] > 0 < found["tflops_per_device"]
    assert found["run"] == {"steps": 12, "images": 96, "epochs": None, "seconds": pytest.approx(12 * step["mean"])}
    assert 0 <= found["waiting_for_data"] < 1
    assert found["memory_bytes"]["step_in_all"] > found["memory_bytes"]["step_alone"] > 0
    for text in ("images/s", "p99", "GFLOP a step", "waiting for data", "12 steps, 96 images"):
        assert text in out


def test_real_input_is_read_and_its_epochs_are_counted(jaxtl, config_file, pictures, tmp_path):
    status, _, err = jaxtl(
        "bench",
        f"--config={config_file}",
        f"--workdir={tmp_path / 'b'}",
        f"--config.data.source=folder:{pictures}",
        "--input=real",
        "--steps=3",
        "--config.finetune.unfreeze=head",
    )
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert (found["input"], found["run"]["steps"]) == ("real", 12)
    assert found["run"]["epochs"] == pytest.approx(96 / 54)
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_utilisation_is_the_work_counted_by_what_the_devices_could_do(monkeypatch):
    monkeypatch.setattr(benchmark, "peak_tflops", lambda kind: 50.0)
    timing = Timing(dispatched=np.array([0.5, 2.5]), done=np.array([1.0, 3.0, 5.0]))
    cost = {"step_gflop": 80e3, "temp_bytes": 1, "peak_bytes": 2}
    found = benchmark.measurements(timing, cost, batch_size=8, devices=4)
    # 80 TFLOP in 2 s on four devices.
    assert (found["step_gflop"], found["tflops_per_device"], found["mfu"]) == (80e3, 10.0, 0.2)


@pytest.mark.slow
def test_scan_and_accumulation_leave_the_counted_work_as_it_is(jaxtl, config_file, tmp_path):
    gflop = []
    for number, flags in enumerate(([], ["--config.model.scan=true", "--config.train.accumulate=2"])):
        workdir = tmp_path / str(number)
        depth = "--config.model.name=vit_petals:depth=4,width=16,heads=2,patch=8"
        status, _, err = jaxtl("bench", f"--config={config_file}", f"--workdir={workdir}", *COMMON, depth, *flags)
        assert (status, err) == (0, "")
        gflop.append(json.loads((workdir / "bench.json").read_text())["step_gflop"])
    assert gflop[0] == gflop[1] > 0


def test_too_few_steps_are_refused(jaxtl, config_file, tmp_path):
    status, _, err = jaxtl("bench", f"--config={config_file}", f"--workdir={tmp_path / 'b'}", COMMON[0], "--steps=1")
    assert status == 1
    assert "at least 2 steps" in err
