"""jaxtl from Python: what is imported when, what each function takes, and that folders of the package can be called."""

import json
import subprocess
import sys

import numpy as np
import pytest

import jaxtl
from jaxtl import api, config
from jaxtl.errors import UserError


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_it_imports_nothing_and_starts_no_device():
    code = "import sys; before = set(sys.modules); import jaxtl; print(*sorted(set(sys.modules) - before))"
    assert {name.partition(".")[0] for name in python(code).split()} - set(sys.stdlib_module_names) == {"jaxtl"}
    code = "import sys, jaxtl; jaxtl.train, jaxtl.evaluate, jaxtl.load, jaxtl.describe; print(*sys.modules)"
    assert not {"jax", "numpy", "flax", "ml_collections"} & set(python(code).split())


def test_a_run_is_opened_without_what_takes_long_to_import():
    code = "import sys, jaxtl.experiment.loading; print(*sys.modules)"
    heavy = {
        "orbax",
        "optax",
        "sklearn",
        "scipy",
        "transformers",
        "ml_collections",
        "tensorflow_datasets",
        "matplotlib",
    }
    assert not heavy & set(python(code).split())


def test_folders_of_the_package_can_be_called_before_and_after_their_files_are_imported():
    for name in ("train", "evaluate"):
        with pytest.raises(TypeError, match="workdir"):
            getattr(jaxtl, name)("vit_flowers:demo")
    from jaxtl.train import loop

    assert jaxtl.train.loop is loop
    with pytest.raises(TypeError, match="workdir"):
        jaxtl.train()
    assert {"load", "train", "evaluate", "describe"} <= set(dir(jaxtl))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = jaxtl.lode


def test_keys_may_be_nested_or_whole_and_values_be_themselves():
    made = api.config_of(
        {"data": {"source": "folder:photos"}, "model": {"name": "resnet18", "mean": [0.1, 0.2, 0.3]}},
        {
            "train.epochs": np.float32(2),
            "optimizer": {"learning_rate": 1e-3, "name": "sgd"},
            "data.skip_broken": True,
            "finetune": {"lr_multipliers": {"stem": 0.5}, "unfreeze": 2},
        },
    )
    assert (made.data.source, made.model.name, made.model.mean) == ("folder:photos", "resnet18", (0.1, 0.2, 0.3))
    assert (made.train.epochs, made.optimizer.learning_rate, made.optimizer.name) == (2.0, 1e-3, "sgd")
    assert made.data.skip_broken is True
    assert (made.finetune.lr_multipliers, made.finetune.unfreeze) == ({"stem": 0.5}, "2")


def test_a_config_that_is_given_stays_as_it_is():
    given = config.default()
    given.data.source = "folder:photos"
    made = api.config_of(given, {"train": {"steps": 7}})
    assert (made.train.steps, given.train.steps) == (7, config.default().train.steps)
    recipe = api.config_of("vit_flowers:demo", {"train": {"seed": 3}})
    assert (recipe.train.seed, recipe.model.name) == (3, "vit_petals")


@pytest.mark.parametrize(
    ("given", "overrides", "message"),
    [
        (None, {}, "there are no data"),
        (
            "vit_flowers:demo",
            {"train": {"epoch": 3}},
            r"unknown key config.train.epoch; did you mean config.train.epochs",
        ),
        ("vit_flowers:demo", {"epochs": 3}, "unknown key config.epochs"),
        ("vit_flowers:demo", {"train": {"epochs": "many"}}, "config.train.epochs is 'many'"),
        ("vit_flowers:demo", {"train": {"epochs": None}}, "train.epochs is None: leave it out"),
        ("vit_flowers:demo", {"train": {"epochs": {"a": 1}}}, "train.epochs is given as a mapping"),
        ("vit_flower", {}, "did you mean vit_flowers"),
        ({"optimiser": {"name": "sgd"}, "data.source": "folder:x"}, {}, "unknown key config.optimiser.name"),
    ],
)
def test_what_is_wrong_is_told(given, overrides, message):
    with pytest.raises(UserError, match=message):
        api.config_of(given, overrides)


def test_describe_gives_what_the_command_prints(capsys):
    flags = {"model": {"weights": ""}, "finetune": {"unfreeze": 1}, "data": {"source": "folder:nowhere"}}
    from jaxtl.main import main

    said = jaxtl.describe("vit_flowers:demo", **flags)
    assert capsys.readouterr().out == ""
    line = ["--config.model.weights=", "--config.finetune.unfreeze=1", "--config.data.source=folder:nowhere"]
    assert main(["describe", "--config=vit_flowers:demo", *line]) == 0
    assert capsys.readouterr().out == said + "\n"


def test_where_there_is_nothing_to_load(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "model.json").write_text("{}")
    for location, message in [
        (tmp_path / "gone", "there is no '.*gone': give the workdir of a run, an export, a weight file"),
        (f"run:{tmp_path / 'gone'}", r"there is no 'run:.*gone': give the workdir of a run"),
        (tmp_path / "model.json", "json"),
    ]:
        with pytest.raises(UserError, match=message):
            jaxtl.load(location)
    with pytest.raises(UserError, match=r"batch_size is 0, but it must be a whole number, 1 or more"):
        jaxtl.load(tmp_path, batch_size=0)
    assert json.loads((tmp_path / "model.json").read_text()) == {}
