import re

import pytest

from jaxtl import config, config_help

DEFAULTS = config.defaults()


def test_every_key_and_every_section_says_what_it_means():
    known = config.meanings()
    keys = config.flat(config.default()).keys()
    assert known.keys() == keys | {key.split(".")[0] for key in keys}
    assert [key for key, text in known.items() if len(text) < 10] == []


def test_a_meaning_is_the_lines_above_and_that_beside():
    source = '"""# Not this."""\n# One\n# two\nc.a.b = "#"  # three\n\n# Of nothing.\n\nc.a.d = (\n    1,  # four\n)\n'
    assert config_help.meanings(source) == {"a.b": "One two three", "a.d": "four"}


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ("train.seed", ["train.seed"]),
        ("eval", ["eval.split", "eval.batch_size", "eval.calibration", "eval.report"]),
        ("batch_size", ["train.batch_size", "eval.batch_size"]),
        ("optimizer.b", ["optimizer.b1", "optimizer.b2", "optimizer.boundaries"]),
        ("lr", []),
    ],
)
def test_a_name_selects_keys(wanted, keys):
    assert config_help.select(wanted, DEFAULTS) == keys


def test_the_table_wraps_and_shows_what_a_config_changes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    known = {"a": "Letters.", "a.b": "one two three four five six seven eight nine ten", "a.long": "Rules."}
    defaults, values = {"a.b": 1, "a.long": {}}, {"a.b": 2, "a.long": {"embed|block.*": 0.0625}}
    assert config_help.table(["a.b"], defaults, known) == (
        "a: Letters.\n"
        "a.b  1                   one two three four five six seven eight nine\n"
        "                         ten"
    )
    assert config_help.table(list(values), defaults, known, values).splitlines()[1:] == [
        "a.b     2                   (default 1) one two three four five six",
        "                            seven eight nine ten",
        "a.long  {'embed|block.*': 0.0625}",
        "                            (default {}) Rules.",
    ]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.epoch", "did you mean config.train.epochs?"),
        ("optim.wd", "did you mean config.optimizer.weight_decay?"),
        ("train.learning_rate", "did you mean config.optimizer.learning_rate?"),
        ("augment.erasing", "there is config.augment.erase (Probability that a box is"),
        ("augment.perspective", "the keys of augment are: preset, crop, scale, ratio, "),
        ("network.fog", "the sections are: model, data, augment, finetune, optimizer, prune, train, log, eval. `jaxtl"),
    ],
)
def test_an_unknown_key_says_what_there_is(key, said):
    text = config_help.unknown(key, DEFAULTS, config.meanings())
    assert re.match(f"unknown key config.{key}; ", text)
    assert said in text
