"""A family with auxiliary heads through the commands: trained, new for other classes, and left out."""

import json
import shutil
import sys

import pytest

from jaxtl import models
from jaxtl.checkpoints.manager import read_best

# Whole runs.
pytestmark = pytest.mark.slow

FAMILY = '''
import flax.linen as nn

from jaxtl.models.base import GroupedModel, classify


class Branched(GroupedModel):
    """A dense layer after another on the mean colour, with an auxiliary head between them."""

    unseen = ()
    auxiliary_classifiers = "aux"

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
