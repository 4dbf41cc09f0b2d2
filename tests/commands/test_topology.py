"""A run that is cut over many devices goes on with fewer."""

import json
import re

import numpy as np
import pytest
import warm

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.trees import flatten

# Wide enough for some of its arrays to be worth cutting.
WIDE = "--config.model.name=vit_petals:depth=3,width=32,heads=2,patch=8"
FLAGS = (
    WIDE,
    "--config.model.scan=True",
    "--config.optimizer.name=sgd",
    "--config.model.dropout=0.1",
    "--config.train.eval_every=12",
)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_state_cut_over_8_devices_goes_on_over_2_and_then_on_1(config_file, pictures, tmp_path):
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}", *FLAGS)

    def train(workdir, devices, mesh, stop_after=0):
        output = tmp_path / "said.txt"
        arguments = ("train", f"--workdir={tmp_path / workdir}", f"--config.train.mesh={mesh}", *flags)
        process = warm.start(arguments, output, devices=devices, stop_after=stop_after)
        process.join()
        assert process.exitcode == (75 if stop_after else 0), output.read_text()
        return output.read_text()

    train("one", 1, {"data": 1, "fsdp": 1})
    train("cut", 8, {"data": 2, "fsdp": 4}, stop_after=4)
    saved = list((tmp_path / "cut" / "checkpoints" / "4").rglob("_sharding"))
    assert any(re.search(r"partition_spec[^]]*fsdp", path.read_text()) for path in saved)
    train("cut", 2, {"data": 1, "fsdp": 2}, stop_after=4)
    said = train("cut", 1, {"data": 1, "fsdp": 1})
    assert "continues at step 4 of 12" in said
    assert "continues at step 8 of 12" in said
    ours, theirs = lines(tmp_path / "cut"), lines(tmp_path / "one")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [3, 6, 9, 12, 12]
    differences = [abs(one["loss"] - other["loss"]) for one, other in zip(ours, theirs, strict=True)]
    print("largest difference of a loss:", max(differences))
    assert max(differences) < 1e-6
    ours, theirs = (flatten(read_best(tmp_path / name)[1]) for name in ("cut", "one"))
    for path in theirs:
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-6, err_msg=path)
    with Checkpoints(tmp_path / "cut" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 12
