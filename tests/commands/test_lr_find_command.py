import json

import pytest

# Whole runs, several for each test.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("flags", [(), ("--per-group", "--config.finetune.unfreeze=1", "--config.augment.crop=none")])
def test_lr_find_suggests_rates_and_draws_them(jaxtl, config_file, pictures, tmp_path, flags):
    status, _, err = jaxtl(
        "lr_find",
        f"--config={config_file}",
        f"--workdir={tmp_path / 'find'}",
        f"--config.data.source=folder:{pictures}",
        "--steps=25",
        *flags,
    )
    assert (status, err) == (0, "")
    sweeps = json.loads((tmp_path / "find" / "lr_find.json").read_text())["sweeps"]
    assert list(sweeps) == (["block1", "head"] if flags else ["all"])
    for found in sweeps.values():
        assert {"steepest", "valley", "minimum/10"} <= found["suggestions"].keys()
        assert all(1e-8 <= rate <= 10 for rate in found["suggestions"].values())
        assert len(found["rates"]) == len(found["losses"])
    assert {path.name for path in (tmp_path / "find").iterdir()} == {"lr_find.json", "lr_find.png"}


def test_train_warns_of_a_rate_far_past_divergence(train):
    flags = ("--config.train.check_learning_rate=True", "--config.optimizer.name=sgd")
    status, out, _ = train(*flags, "--config.optimizer.learning_rate=1e25")
    assert status == 1
    assert "but a short sweep diverged at" in out
    status, out, _ = train(*flags, workdir="fine")
    assert status == 0
    assert "diverged" not in out
