"""What there is to set, and the recipes: `jaxtl config` and `jaxtl configs`."""

from pathlib import Path

import pytest

from jaxtl import models
from jaxtl.pretrained import catalog


def test_a_key_of_a_config(jaxtl):
    shown = "\noptimizer.weight_decay  0.05                (default 0.0) Decoupled; not on biases,"
    for arguments in (
        ["config", "--config=vit_flowers:ti16", "optimizer.weight_decay"],
        ["config", "weight_decay", "--config=vit_flowers:ti16"],
        ["--config=vit_flowers:ti16", "--config.optimizer.weight_decay=?"],
        ["bench", "--config=vit_flowers:ti16", "--input=real", "--config.help=optimizer.weight_decay"],
    ):
        status, out, err = jaxtl(*arguments)
        assert (status, err) == (0, "")
        assert shown in out


def test_all_keys_without_a_config(jaxtl):
    status, out, _ = jaxtl("eval", "--config.help")
    assert status == 0
    assert "optimizer: How far each step goes.\n" in out
    assert out.count("train.seed ") == 1
    assert jaxtl("config") == (0, out, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "optimizer.lr"], "unknown key config.optimizer.lr; did you mean config.optimizer.learning_rate?"),
        (["config", "--config.train.seed=1"], "--config.train.seed is given without --config"),
        (["configs", "copy"], "configs copy: give `configs`, `configs NAME` or `configs copy NAME`."),
        (["configs", "nothing"], "there is no file nothing"),
    ],
)
def test_what_there_is_not(jaxtl, arguments, said):
    status, _, err = jaxtl(*arguments)
    assert status == 1
    assert said in err


@pytest.mark.slow
def test_models_come_with_their_size_and_sources(jaxtl, monkeypatch):
    shown = {"vit": ("vit_ti16", "vit_b16"), "resnet": ("resnet18", "resnet50")}  # All of them take long to count.
    families = [family for family in models.families() if family.__name__.rpartition(".")[2] in shown]
    for family, names in zip(families, (shown["resnet"], shown["vit"]), strict=True):
        monkeypatch.setattr(family, "VARIANTS", {name: family.VARIANTS[name] for name in names})
    monkeypatch.setattr(catalog.models, "families", lambda: families)
    status, out, _ = jaxtl("--config.model.name=?")
    assert status == 0
    lines = [line.split()[:4] for line in out.splitlines()]
    assert ["vit_b16", "85.80", "M", "224"] in lines
    assert ["resnet50", "23.51", "M", "224"] in lines
    assert "resnet: opens weights of huggingface, keras, timm, torchvision, and of jaxtl" in out


def test_recipes_are_listed_shown_and_copied(jaxtl):
    status, out, _ = jaxtl("configs")
    assert status == 0
    assert "vit_flowers\n    Flowers: the recipe that published" in out
    assert "    variants: (none), b32_384, ti16, demo\n" in out
    assert jaxtl("configs", "copy", "lp_ft")[0] == 0
    assert "lp_ft  (in ./configs)\n" in jaxtl("configs")[1]
    assert jaxtl("configs", "lp_ft")[1].startswith("configs/lp_ft.py\n\nLinear probing, then fine-tuning")
    assert Path("configs/lp_ft.py").is_file()
    status, _, err = jaxtl("configs", "copy", "lp_ft")
    assert (status, err) == (
        1,
        "error: configs/lp_ft.py is there already, and stays as it is: move it away to have a new copy.\n",
    )
