import re
import runpy
from pathlib import Path

import pytest

from jaxtl import config as lib
from jaxtl import config_checks
from jaxtl.errors import UserError
from jaxtl.experiment import options

ROOT = Path(__file__).parents[1]
FILE = """
from jaxtl import config


def get_config(variant=""):
    c = config.default()
    c.data.source = "folder:x"
    c.train.epochs = 1
    {line}
    return c
"""


@pytest.fixture
def load(tmp_path):
    def load(line="pass", **overrides):
        path = tmp_path / "c.py"
        path.write_text(FILE.format(line=line))
        return lib.load(str(path), {key.replace("__", "."): value for key, value in overrides.items()})

    return load


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train__epochs", "2", 2.0),
        ("train__batch_size", "64", 64),
        ("optimizer__learning_rate", "3e-4", 0.0003),
        ("finetune__unfreeze", "2", "2"),
        ("augment__scale", "0.5,1", (0.5, 1)),
        ("augment__scale", "(0.5, 1.0)", (0.5, 1.0)),
        ("model__mean", "", ()),
        ("finetune__lr_multipliers", "{'norm.*': 0.1}", {"norm.*": 0.1}),
        ("model__weights", "run:a=b", "run:a=b"),
    ],
)
def test_flags_are_read_as_the_kind_of_their_key(load, key, text, value):
    section, name = key.split("__")
    assert load(**{key: text})[section][name] == value


def test_a_file_may_give_whole_numbers_for_k_and_for_rates(load):
    assert load("c.finetune.unfreeze = 2; c.optimizer.learning_rate = 1").finetune.unfreeze == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.train.epoch = 3", "unknown key config.train.epoch; did you mean config.train.epochs?"),
        ("c.optimizer.lr = 3", "did you mean config.optimizer.learning_rate?"),
        ("c.train.learning_rate = 3", "did you mean config.optimizer.learning_rate?"),
        (
            "c.augment.erasing = 3",
            "unknown key config.augment.erasing; there is config.augment.erase (Probability that a box is overwritten",
        ),
        (
            "c.eval.folds = 3",
            "unknown key config.eval.folds; the keys of eval are: split, batch_size, calibration, rep",
        ),
        ("c.model.name = 'mobilenet_v9'", "unknown model 'mobilenet_v9'; did you mean 'mobilenet_v"),
        ("c.model.image_size = 230", "no multiple of patch 16; the nearest that fit are 224 and 240."),
        ("c.train.batch_size = 'a'", "train.batch_size is 'a', but it must be a whole number, such as 32."),
        ("c.train.batch_size = 1.5", "a whole number"),
        ("c.optimizer.clip_norm = float('nan')", "optimizer.clip_norm is nan, but it must be a number, such as 0.5."),
        ("c.model.mean = 0.5", "model.mean is 0.5, but it must be numbers with commas, such as 0.5,0.5,0.5."),
        ("c.finetune.stages = 3", "such as ({'epochs': 2, 'unfreeze': 'head'}, "),
        (
            "c.finetune.stages = ({'epochs': 1, 'unfreeze': 'head'},); c.finetune.unfreeze = 'head'",
            "leave finetune.unfreeze at 'all', or train without them: finetune.stages=().",
        ),
        ("c.finetune.lr_multipliers = {3: 0.5}", "{regex: factor} with factors of 0 or more"),
        ("c.model.std = (0.5, 0.0, 0.5)", "model.std is (0.5, 0.0, 0.5), but it must be positive"),
        ("c.model.attention = 'flash'", "'flash', but it must be one of: 'auto', 'cudnn', 'xla', 'plain'"),
        ("c.model.pool = 'mean'", "'mean', but it must be one of: '', 'own', 'flatten', 'avg', 'max', 'avg+max'"),
        ("c.model.head_hidden = '256,'", "'256,', but it must be widths with commas, such as '512,256', '0' for none"),
        ("c.model.head_hidden = True", "model.head_hidden is True, but it must be text"),
        ("c.model.head = 'keep'", "'keep', but a start at random has no head to keep: give model.weights"),
        ("c.model.single_logit, c.train.loss = True, 'binary'", "has the binary cross entropy of its logit already"),
        ("c.eval.calibration = 'platt'", "'platt', but it must be one of: 'temperature', 'vector', 'none'"),
        ("c.data.reader = 'thread'", "'thread', but it must be one of: 'auto', 'threads', 'processes'"),
        ("del c.train.seed", "train.seed is missing"),
    ],
)
def test_problems_of_a_file(load, line, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load(line)


@pytest.mark.parametrize(
    ("line", "overrides", "kept", "note"),
    [
        (
            "pass",
            {"train__steps": "7"},
            (7, 0),
            "note: train.steps 7 is given, so train.epochs 1 of the config does not",
        ),
        ("c.train.steps, c.train.epochs = 5, 0", {"train__epochs": "0.5"}, (0, 0.5), "so train.steps 5 of the config"),
        ("pass", {"train__steps": "7", "train__epochs": "0"}, (7, 0), ""),
    ],
)
def test_a_length_given_as_a_flag_replaces_that_of_the_file(load, capsys, line, overrides, kept, note):
    config = load(line, **overrides)
    assert (config.train.steps, config.train.epochs) == kept
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "overrides", "preset", "values"),
    [
        # Of a file, what it writes beside its preset stays.
        ("c.augment.preset = 'medium'; c.augment.scale = (0.9, 1.0)", {}, "medium", ((0.9, 1.0), 10.0, 0.1)),
        ("c.augment.preset = 'medium'", {"rotate": "25"}, "medium", ((0.25, 1.0), 25.0, 0.1)),
        # A preset as a flag replaces what the file says, and other flags stay, even at their default.
        ("c.augment.scale = (0.9, 1.0)", {"preset": "medium"}, "medium", ((0.25, 1.0), 10.0, 0.1)),
        ("pass", {"preset": "medium", "erase": "0"}, "medium except erase", ((0.25, 1.0), 10.0, 0.0)),
        ("c.augment.preset = 'strong'", {"erase": "0", "rotate": "0"}, "strong except erase", ((0.2, 1.0), 0.0, 0.0)),
        ("c.augment.preset = 'strong'; c.augment.erase = 0.7", {"preset": ""}, "", ((0.25, 1.0), 0.0, 0.7)),
    ],
)
def test_a_preset_and_what_is_given_beside_it(load, line, overrides, preset, values):
    config = load(line, **{f"augment__{key}": value for key, value in overrides.items()})
    found = options.augmentation(config)
    assert (config.augment.preset, (found.scale, found.rotate, found.erase)) == (preset, values)
    # What is kept of a run gives the same again.
    again = lib.override(lib.from_dict(lib.to_dict(config)), {})
    assert options.augmentation(again) == found


def test_what_a_preset_replaces_is_told(load, capsys):
    load("c.augment.scale = (0.9, 1.0); c.augment.mixup = 0.2", augment__preset="light")
    assert capsys.readouterr().out == (
        "note: augment.preset 'light' is given, so augment.scale (0.9, 1.0) of the config does not count\n"
    )


def test_all_that_is_wrong_with_the_augmentation_comes_at_once(load):
    with pytest.raises(UserError) as error:
        load(
            "c.augment.fill = 'mirror'; c.augment.erase_area = (0.5, 2.0); c.augment.zoom = 1.5",
            augment__preset="meduim",
            augment__policy="randaug",
            augment__erase="1.2",
            augment__rotate="-5",
        )
    lines = str(error.value).splitlines()
    assert {line.split(" ")[0] for line in lines} == {
        f"augment.{name}" for name in ("preset", "fill", "policy", "erase", "erase_area", "rotate", "zoom")
    }
    assert len(lines) == 7
    assert lines[0] == (
        "augment.preset is 'meduim', but it must be one of: '', 'auto', 'none', 'small_images', 'light', 'medium', "
        "'strong'; did you mean 'medium'?"
    )


def test_a_config_made_in_python_is_checked_as_flags_are():
    config = lib.default()
    config.data.source, config.train.steps = "folder:x", 3
    lib.check(config)
    config.optimizer.lr = 1.0
    with pytest.raises(
        UserError, match=r"unknown key config.optimizer.lr; did you mean config.optimizer.learning_rate"
    ):
        lib.check(config)


def test_all_problems_come_together(load):
    with pytest.raises(
        UserError, match=r"(?s)config.train.epoch; did you mean .*\ntrain.seed is -1, but it must be 0 or"
    ):
        load(train__epoch="1", train__seed="-1")
    with pytest.raises(UserError) as error:
        load("c.optimizer.learning_rate = -1; c.optimizer.schedule = 'x'", train__patience="-1", augment__flip="2")
    assert len(str(error.value).splitlines()) == 4


def test_rules_that_fit_nothing_come_with_the_other_problems(load):
    with pytest.raises(UserError) as error:
        load(
            "c.finetune.lr_multipliers = {'blok.*': 0.1, 'block.*': 0.5, 'bias': 2.0}; c.finetune.l2 = {'(': 1}",
            finetune__unfreeze="blok1,head",
            train__batch_size="0",
            optimizer__name="adm",
        )
    lines = str(error.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "optimizer.name",
        "finetune.unfreeze:",
        "finetune.lr_multipliers:",
        "finetune.l2:",
        "The",
        "train.batch_size",
    ]
    assert lines[1] == "finetune.unfreeze: 'blok1' fits no group and no parameter"
    assert lines[4].startswith("The groups are: embed block0 ")


def test_rules_see_the_head_that_is_asked_for(load):
    head = 'c.model.name, c.model.pool, c.model.head_hidden = "vgg11", "flatten", 256; '
    load(head + 'c.finetune.l2 = {"head/hidden1/kernel": 0.1}')
    with pytest.raises(UserError, match="'head/hidden2/kernel' fits no group and no parameter"):
        load(head + 'c.finetune.l2 = {"head/hidden2/kernel": 0.1}')
    with pytest.raises(
        UserError, match=r"'fc1' fits no group and no parameter\nThe groups are: block1 .* block5 head\."
    ):
        load(head + 'c.finetune.unfreeze = "fc1"')


def test_rules_of_a_model_that_only_the_weights_tell_are_left_to_later(load):
    assert load(model__name="auto", finetune__unfreeze="layer4").finetune.unfreeze == "layer4"


def test_too_many_groups_and_stages_are_told_by_the_name_of_the_model(load):
    with pytest.raises(UserError, match=r"finetune\.unfreeze is 14, but this model has 13 groups before its head"):
        load(finetune__unfreeze="14")


def test_every_example_in_an_error_is_allowed():
    known = dict(lib._leaves(lib.default()))
    for key, value in known.items():
        example = config_checks.kind_of(value, key).partition("such as ")[2].removesuffix(', or "auto"')
        if example and (key in config_checks.AUTO or not isinstance(value, str)):
            assert lib._fits(lib._parse(example, value, key), value, key), key


def test_to_dict_and_back(load):
    config = load("c.finetune.lr_multipliers = {'a.*': 0.5}; c.augment.scale = (0.2, 0.9)")
    values = lib.to_dict(config)
    assert values["augment"]["scale"] == [0.2, 0.9]
    assert lib.to_dict(lib.from_dict(values)) == values
    assert lib.differences(values, lib.to_dict(load("c.train.seed = 3"))) == [
        "augment.scale: [0.2, 0.9] -> [0.25, 1.0]",
        "finetune.lr_multipliers: {'a.*': 0.5} -> {}",
        "train.seed: 0 -> 3",
    ]


def variants() -> list[str]:
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        names = runpy.run_path(str(path)).get("VARIANTS", {"": None})
        found += (f"configs/{path.name}" + (f":{name}" if name else "") for name in names)
    return found


@pytest.mark.parametrize("name", variants())
def test_every_config_is_valid_and_its_docstring_names_its_command(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    lib.load(name, {})
    docstring = Path(name.split(":")[0]).read_text().split('"""')[1]
    assert f"--config={name} " in docstring
