"""A family that is one file: put beside the others, it trains, loads, freezes and exports with no other change."""

import sys

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from jaxtl import models, pretrained
from jaxtl.main import main
from jaxtl.models.base import Model, image_channels
from jaxtl.pretrained.architecture import is_known, telltale
from jaxtl.pretrained.hub_config import facts_from_config
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import flatten

FAMILY = '''
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxtl.models.base import GroupedModel, classify
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.models.layers.residual_block import conv
from jaxtl.preprocessing import HALF, PixelDefaults, Processor


class Toy(GroupedModel):
    """A convolution, a depthwise one, and a head."""

    num_classes: int
    image_size: int = 16
    width: int = 8
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @property
    def first_layer(self):
        return "params/stem/kernel"

    def groups(self):
        return (("stem", "stem"), ("mix", "depthwise|norm"), ("head", "head"))

    def no_weight_decay(self):
        return ("depthwise/kernel",)

    def run_group(self, x, name, train):
        if name == "stem":
            return nn.relu(conv(self.width, 3, 2, dtype=self.dtype, name="stem")(x))
        if name == "head":
            return classify(x, self.num_classes, train=train)
        x = nn.Conv(self.width, (3, 3), padding=1, feature_group_count=self.width, use_bias=False, name="depthwise")(x)
        x = BatchNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x, use_running_average=not train)
        return self.pooled(x)


VARIANTS = {"toy8": {}, "toy4": {"width": 4}}
MODEL = Toy
IMAGE_SIZE = 16
ARCHITECTURES = (r"toynet\\d+",)
TELLTALES = {r"features\\.2\\.gate": "ToyNet with gates"}
PROCESSOR = Processor("Toy", interpolation="nearest")
BUILDERS = {"torchvision": {"toy8": "toynet8"}}
KEY_MAPPINGS = (
    KeyMapping(
        "torchvision",
        "torch",
        (
            ("features.0", "stem", "conv"),
            ("features.2", "depthwise", "conv"),
            ("features.3", "norm", "batchnorm"),
            ("classifier", "head", "dense"),
        ),
        pixels=PixelDefaults(HALF, "bilinear", 1.0),
        unused=(r".*num_batches_tracked",),
    ),
)


def infer(shapes):
    return {"width": shapes["params/stem/kernel"][-1]}


def torchvision_arguments(model):
    return {"side": model.image_size}
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Puts the file where the package is looked for; yields nothing that names it."""
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "toy_family.py").write_text(FAMILY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    yield
    sys.modules.pop("jaxtl.models.toy_family", None)
    vars(models).pop("toy_family", None)


class TorchToy(torch.nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, 2, 1, bias=False),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False),
            torch.nn.BatchNorm2d(width),
        )
        self.classifier = torch.nn.Linear(width, classes)

    def forward(self, images):
        return self.classifier(self.features(images).mean(dim=(2, 3)))


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    module = TorchToy().eval()
    with torch.no_grad():
        module.features[3].running_mean.normal_()
        module.features[3].running_var.uniform_(0.5, 1.5)
    save_file(module.state_dict(), tmp_path / "flowers.safetensors")
    return module, tmp_path / "flowers.safetensors"


def test_the_file_alone_makes_it_known(toy):
    model = models.build("toy4", num_classes=2)
    assert isinstance(model, Model)
    assert {"toy8", "toy4"} <= set(models.names())
    leaves = abstract_variables(model, 16)
    # Not the depthwise kernel, whose third axis is the shortest.
    assert (leaves["params/depthwise/kernel"].shape[2], image_channels(model, leaves)) == (1, 3)


def test_it_loads_files_in_the_names_of_its_table(toy, weights):
    module, path = weights
    opened = pretrained.open_weights(str(path))
    assert (opened.model, opened.num_classes, opened.key_mapping.name) == ("toy8", 3, "torchvision")
    model = models.build(pretrained.resolve_model(opened, "auto"), num_classes=3)
    variables, report = pretrained.load_pretrained(opened, model, image_size=16, rng=jax.random.key(0))
    assert report.initialised == {}
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, atol=1e-5)

    gray, report = pretrained.load_pretrained(opened, model, image_size=16, channels=1, rng=jax.random.key(0))
    assert report.resized == {"params/stem/kernel": "[3, 3, 3, 8] -> [3, 3, 1, 8]"}
    np.testing.assert_allclose(
        gray["params"]["stem"]["kernel"][:, :, 0], variables["params"]["stem"]["kernel"].sum(axis=2), atol=1e-6
    )


def test_what_others_say_of_it_and_its_relatives_is_understood(toy):
    assert is_known("toynet8")
    assert telltale({"features.2.gate": (8,)}) == "ToyNet with gates"
    preprocessor = {"image_processor_type": "ToyImageProcessor", "size": 16, "image_mean": [0.5], "image_std": [0.5]}
    assert facts_from_config({}, preprocessor).pixels.interpolation == "nearest"


def test_it_trains_its_head_alone_and_is_exported(toy, weights, tmp_path, capsys):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8), np.arange(24) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_val=x[:8], y_val=y[:8])
    (tmp_path / "tiny.py").write_text(
        "from jaxtl import config\n\n\ndef get_config(variant=''):\n    return config.default()\n"
    )
    run, output = tmp_path / "run", tmp_path / "toy.safetensors"
    flags = {
        "data.source": f"npz:{tmp_path / 'data.npz'}",
        "model.name": "auto",
        "model.weights": weights[1],
        "finetune.unfreeze": "head",
        "train.steps": 2,
        "train.eval_every": 1,
        "train.batch_size": 8,
    }
    settings = [f"--config.{key}={value}" for key, value in flags.items()]
    assert main(["train", f"--config={tmp_path / 'tiny.py'}", f"--workdir={run}", *settings]) == 0, capsys.readouterr()
    assert main(["export", f"--workdir={run}", f"--output={output}"]) == 0

    opened = pretrained.open_weights(str(weights[1]))
    model = models.build("toy8", num_classes=3)
    before = flatten(pretrained.load_pretrained(opened, model, image_size=16, rng=jax.random.key(0))[0])
    after = load_file(output)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {"params/head/kernel", "params/head/bias"}
    assert pretrained.open_weights(str(output)).model == "toy8"

    capsys.readouterr()
    assert main(["export", f"--workdir={run}", "--format=torchvision", f"--output={tmp_path / 'toy.pth'}"]) == 0
    assert "torchvision.models.toynet8(num_classes=3, side=16)" in capsys.readouterr().out
    TorchToy().load_state_dict(torch.load(tmp_path / "toy.pth"))
    for form, message in (
        ("hf", "transformers has no model that computes what 'toy8' does"),
        ("timm", "timm has no model that computes what 'toy8' does"),
    ):
        assert main(["export", f"--workdir={run}", f"--format={form}", f"--output={tmp_path / form}"]) == 1
        assert message in capsys.readouterr().err
