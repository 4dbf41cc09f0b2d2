"""A family with auxiliary heads through the commands: trained, new for other classes, and left out."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from jaxtl import models
from jaxtl.checkpoints.manager import read_best
from jaxtl.models import googlenet

# Whole runs.
pytestmark = pytest.mark.slow

FAMILY = '''
import flax.linen as nn

from jaxtl.models.base import GroupedModel, classify


class Branched(GroupedModel):
    """A dense layer after another on the mean colour, with an auxiliary head between them."""

    unseen = ()
    auxiliary_classifiers = "aux"
    auxiliary_field = "aux"

    num_classes: int
    image_size: int = 16
    aux: bool = True
    dtype: object = None

    def groups(self):
        names = ("one", *(("aux",) if self.aux else ()), "two", "head")
        return tuple((name, name) for name in names)

    def run_group(self, x, name, train):
        if name == "head":
            return classify(x, self.num_classes, train=train)
        return nn.tanh(nn.Dense(8, name=name)(x.mean((1, 2)) if name == "one" else x))

    def run_auxiliary(self, x, name, train):
        return classify(x, self.num_classes, train=train, name=name)


VARIANTS = {"branched": {}}
MODEL, IMAGE_SIZE, ARCHITECTURES, KEY_MAPPINGS = Branched, 16, (), ()


def infer(shapes):
    return {"aux": "params/aux/kernel" in shapes}
'''


@pytest.fixture(autouse=True)
def family(tmp_path, monkeypatch):
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "branched.py").write_text(FAMILY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    yield
    sys.modules.pop("jaxtl.models.branched", None)
    vars(models).pop("branched", None)


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_auxiliary_heads_train_and_are_new_for_other_classes(train, pictures, tmp_path):
    flags = ("--config.model.name=branched", "--config.train.ema_decay=0.5", "--config.augment.mixup=0.2")
    status, _, err = train(*flags, "--config.train.accumulate=2", workdir="three")
    assert (status, err) == (0, "")
    three = read_best(tmp_path / "three")[1]["params"]
    assert three["aux"]["kernel"].shape == (8, 3)
    assert abs(three["aux"]["kernel"]).max() > 0.01  # It began at zero.

    for split in ("train", "test"):
        shutil.rmtree(pictures / split / "red")
    weights = ("--config.model.name=auto", f"--config.model.weights=run:{tmp_path / 'three'}")
    still = ("--config.augment.crop=none", "--config.augment.flip=0", "--config.optimizer.name=sgd")
    status, out, err = train(*weights, *still, "--config.finetune.unfreeze=head", workdir="two")
    assert (status, err) == (0, "")
    assert "params/aux/kernel [8, 2]" in out
    assert "are frozen and computed once for each image" in out
    two = read_best(tmp_path / "two")[1]["params"]
    assert abs(two["aux"]["kernel"]).max() == 0  # Frozen as it began; it had no part in the loss.
    assert abs(two["head"]["kernel"]).max() > 0
    off = "--config.finetune.cache_features=off"
    status, _, err = train(*weights, *still, "--config.finetune.unfreeze=head", off, workdir="plain")
    assert (status, err) == (0, "")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)

    status, out, err = train(*weights[1:], "--config.model.name=branched:aux=false", workdir="without")
    assert (status, err) == (0, "")
    assert "aux: left out of the model, as asked" in out


@pytest.fixture
def thin(monkeypatch):
    """Leaves of GoogLeNet the inceptions that have a head behind them and the last, an eighth as wide."""
    inceptions = {name: googlenet._INCEPTIONS[name] for name in ("4a", "4d", "5b")}
    kept = {name: tuple(width // 8 for width in widths) for name, widths in inceptions.items()}
    monkeypatch.setattr(googlenet, "_INCEPTIONS", kept)


def test_googlenet_trains_with_its_auxiliary_heads_and_is_used_without_them(train, jaxtl, thin, pictures, tmp_path):
    flags = ("--config.train.steps=4", "--config.train.log_every=1", "--config.train.mesh={'data':1,'fsdp':2}")
    status, _, err = train("--config.model.name=googlenet", *flags)
    assert (status, err) == (0, "")
    run = tmp_path / "run"
    # All heads begin at zero: with a part of the others in it, the first loss would be more.
    assert losses(run)[0] == pytest.approx(np.log(3), abs=1e-5)
    _, variables = read_best(run)
    for name in ("aux1", "aux2"):
        assert abs(variables["params"][name]["fc2"]["kernel"]).max() > 1e-3

    # The run is evaluated as a network that has none of them.
    weights, source = f"--config.model.weights=run:{run}", f"--config.data.source=folder:{pictures}"
    asked = ("--config.model.name=googlenet:aux=false", weights, source, "--config.data.test=test")
    status, out, err = jaxtl("eval", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'without'}", *asked)
    assert (status, err) == (0, "")
    ours, without = (json.loads((tmp_path / of / "results.json").read_text())["test"] for of in ("run", "without"))
    assert without["loss"] == pytest.approx(ours["loss"], abs=1e-6)
    assert without["confusion_matrix"] == ours["confusion_matrix"]

    status, _, err = jaxtl("export", f"--workdir={run}", "--format=torchvision", f"--output={tmp_path / 'it.pth'}")
    assert (status, err) == (0, "")
    exported = torch.load(tmp_path / "it.pth", weights_only=True)
    assert {key.partition(".")[0] for key in exported} == {
        *("conv1", "conv2", "conv3", "inception4a", "inception4d", "inception5b", "fc")
    }

    status, out, err = jaxtl("predict", f"--workdir={run}", pictures / "test")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    logarithms = [
        np.log(next(each["probability"] for each in line["top5"] if f"/{each['class']}/" in line["file"]))
        for line in lines
    ]
    assert -np.mean(logarithms) == pytest.approx(ours["loss"], abs=1e-4)
