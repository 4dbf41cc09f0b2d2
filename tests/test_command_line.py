import pytest

from jaxtl import command_line


@pytest.fixture
def parser():
    parser = command_line.Parser(prog="jaxtl")
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quiet", action="store_true")
    return parser


def test_values_of_a_config_come_with_and_without_an_equals_sign(parser):
    words = ["--config=x", "--config.train.seed=1", "--config.model.name", "vit_s16:patch=8", "--quiet"]
    overrides, rest = command_line.split_overrides(words, parser)
    assert overrides == {"train.seed": "1", "model.name": "vit_s16:patch=8"}
    assert vars(parser.parse_args(rest)) == {"config": "x", "steps": 3, "quiet": True}
    assert parser.parse_args(["--config=y", "--steps", "4"]).steps == 4  # Nothing is left of the call before.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config=x", "--config=y"], "--config is given twice"),
        (["--config=x", "--steps=1", "--st=2"], "is given twice: give it once"),
        (["--config=x", "--config.a.b=1", "--config.a.b", "2"], "--config.a.b is given twice, as '1' and '2'"),
        (["--config=x", "--config.a.b"], "--config.a.b needs a value: --config.a.b=VALUE"),
    ],
)
def test_an_option_is_given_once_and_with_a_value(parser, capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(command_line.split_overrides(words, parser)[1])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "asked", "left"),
    [
        ({"train.seed": "1"}, None, {"train.seed": "1"}),
        ({"help": ""}, "", {}),
        ({"help": "optimizer", "train.seed": "1"}, "optimizer", {"train.seed": "1"}),
        ({"model.name": "?"}, "model.name", {}),
    ],
)
def test_a_question_is_taken_out(overrides, asked, left):
    assert command_line.asked_key(overrides) == asked
    assert overrides == left


def test_the_command_is_the_first_word_else_train():
    commands = {"train": "", "eval": ""}
    assert command_line.split_command(["eval", "--config=x"], commands) == ("eval", ["--config=x"])
    assert command_line.split_command(["--config=x"], commands) == ("train", ["--config=x"])
