import json
import shlex

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
    assert flags or 1e-7 < sweeps["all"]["recommended"] < 10
    for found in sweeps.values():
        assert (found["recommended"] is None) == found["reason"].startswith("the loss never falls")
        assert found["reason"]
        assert {"steepest", "valley", "minimum/10"} <= found["suggestions"].keys()
        assert all(1e-8 <= rate <= 10 for rate in found["suggestions"].values())
        assert len(found["rates"]) == len(found["losses"])
    assert {path.name for path in (tmp_path / "find").iterdir()} == {"lr_find.json", "lr_find.png"}


def test_what_it_recommends_is_a_command_that_trains(jaxtl, config_file, tmp_path, pictures):
    # Cached features, of fewer images than a batch.
    flags = (
        f"--config={config_file}",
        f"--config.data.source=folder:{pictures}",
        "--config.data.train=train[:20%]",
        "--config.data.val=train[80%:]",
        "--config.train.batch_size=32",
        "--config.finetune.unfreeze=head",
        "--config.augment.crop=none",
        "--config.augment.flip=0",
        "--config.train.eval_every=0",
        "--config.train.steps=4",
    )
    status, out, err = jaxtl("lr_find", f"--workdir={tmp_path / 'find'}", "--steps=40", *flags)
    assert (status, err) == (0, "")
    assert "computed once for each image" in out
    found = json.loads((tmp_path / "find" / "lr_find.json").read_text())["sweeps"]["all"]
    assert f"learning rate {found['recommended']}: there the loss has fallen by 60%" in out
    (line,) = [line for line in out.splitlines() if line.startswith("python -m jaxtl.main ")]
    command = shlex.split(line)[3:]
    assert command[-1] == f"--config.optimizer.learning_rate={found['recommended']:g}"
    assert command[:2] == [f"--config={config_file}", f"--workdir={tmp_path / 'find'}-train"]
    status, out, err = jaxtl(*command)
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--low=1", "--high=0.1"], "--low=1 --high=0.1: rates grow from the one to the other, as in --low=1e-07 "),
        (["--low=0"], "--low=0 --high=10: rates grow"),
        (["--steps=5"], "--steps=5: a sweep needs 20 steps at least; give 100."),
    ],
)
def test_a_sweep_that_would_tell_nothing_is_refused(jaxtl, config_file, tmp_path, flags, message):
    status, _, err = jaxtl("lr_find", f"--config={config_file}", f"--workdir={tmp_path / 'find'}", *flags)
    assert status == 1
    assert message in err


def test_train_warns_of_a_rate_far_past_divergence(train):
    flags = ("--config.train.check_learning_rate=True", "--config.optimizer.name=sgd")
    status, out, _ = train(*flags, "--config.optimizer.learning_rate=1e25")
    assert status == 1
    assert "but a short sweep diverged at" in out
    status, out, _ = train(*flags, workdir="fine")
    assert status == 0
    assert "diverged" not in out
