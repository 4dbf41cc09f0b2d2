import pytest

from jaxtl.errors import UserError
from jaxtl.finetune import param_groups
from jaxtl.trees import nest

TABLE = (("stem", "conv1|bn1"), ("block1", "block1"), ("block10", "block10|norm"), ("head", "head"))
PARAMS = {
    "conv1": {"kernel": 0},
    "bn1": {"scale": 0, "bias": 0},
    "block1": {"kernel": 0, "bias": 0},
    "block10": {"kernel": 0, "bias": 0},
    "norm": {"scale": 0},
    "head": {"kernel": 0, "bias": 0},
}
ASSIGNMENT = param_groups.assign(PARAMS, TABLE)


def trains(labels):
    return sorted(path for path, label in labels.items() if label != param_groups.FROZEN)


def test_assign_maps_each_path_to_its_group():
    assert ASSIGNMENT == {
        "conv1/kernel": "stem",
        "bn1/scale": "stem",
        "bn1/bias": "stem",
        "block1/kernel": "block1",
        "block1/bias": "block1",
        "block10/kernel": "block10",
        "block10/bias": "block10",
        "norm/scale": "block10",
        "head/kernel": "head",
        "head/bias": "head",
    }


def test_assign_lists_every_misfit_at_once():
    with pytest.raises(ValueError, match="each parameter belongs") as error:
        param_groups.assign({"a": 0, "b": 0, "c": 0}, (("one", "a|b"), ("two", "b"), ("three", "d")))
    assert "b: one, two" in str(error.value)
    assert "c: no group" in str(error.value)
    assert "group 'three' owns no parameter" in str(error.value)


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("head", ["head/bias", "head/kernel"]),
        (0, ["head/bias", "head/kernel"]),
        ("1", ["block10/bias", "block10/kernel", "head/bias", "head/kernel", "norm/scale"]),
        ("all", sorted(ASSIGNMENT)),
        (3, sorted(ASSIGNMENT)),
        ("block1", ["block1/bias", "block1/kernel"]),
        ("block1,head", ["block1/bias", "block1/kernel", "head/bias", "head/kernel"]),
        ("bias", ["block1/bias", "block10/bias", "bn1/bias", "head/bias"]),
        ("norm.*|bn.*", ["bn1/bias", "bn1/scale", "norm/scale"]),
        ("backbone", sorted(path for path in ASSIGNMENT if not path.startswith("head"))),
        ("biases", ["block1/bias", "block10/bias", "bn1/bias", "head/bias"]),
        ("norms,head", ["bn1/bias", "bn1/scale", "head/bias", "head/kernel", "norm/scale"]),
    ],
)
def test_select(unfreeze, expected):
    assert trains(param_groups.select(ASSIGNMENT, unfreeze)) == expected


@pytest.mark.parametrize(
    ("unfreeze", "message"),
    [
        ("4", "3 groups before its head"),
        ("-1", "3 groups before its head"),
        ("blocks", "'blocks' fits no group"),
        ("head,(", "'\\(' is not a regular expression"),
        ("", "is empty"),
    ],
)
def test_select_says_what_is_allowed(unfreeze, message):
    with pytest.raises(UserError, match=message):
        param_groups.select(ASSIGNMENT, unfreeze)


def test_multipliers_decay_from_the_head_and_multiply_by_rules():
    factors = param_groups.multipliers(ASSIGNMENT, layer_decay=0.5, rules={"head": 10.0, "bias": 2.0})
    assert factors == {
        "conv1/kernel": 0.125,
        "bn1/scale": 0.125,
        "bn1/bias": 0.25,
        "block1/kernel": 0.25,
        "block1/bias": 0.5,
        "block10/kernel": 0.5,
        "block10/bias": 1.0,
        "norm/scale": 0.5,
        "head/kernel": 10.0,
        "head/bias": 20.0,
    }
    with pytest.raises(UserError, match="stem block1 block10 head"):
        param_groups.multipliers(ASSIGNMENT, rules={"block2": 0.1})


def test_partition_splits_and_joins():
    labels = param_groups.select(ASSIGNMENT, "head")
    trainable, frozen = param_groups.partition(PARAMS, labels)
    assert sorted(trainable) == ["head/bias", "head/kernel"]
    assert nest({**trainable, **frozen}) == PARAMS
