import pytest

from jaxtl.errors import UserError
from jaxtl.experiment.compress_recipe import Recipe, make_recipe, takers


def test_what_is_not_given_is_as_the_recipe_usually_has_it():
    assert make_recipe("prune") == Recipe("prune", sparsity=0.5, epochs=2.0, scope="unit")
    assert make_recipe("2:4", scope="group") == Recipe("2:4", epochs=2.0, scope="group")
    assert make_recipe("structure", flops=0.4, epochs=0) == Recipe("structure", flops=0.4)
    assert make_recipe("int4", epochs=1.5) == Recipe("int4", epochs=1.5)
    assert make_recipe("structure").options() == {"flops": 0.3, "epochs": 4.0}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("structure", {"sparsity": 0.5}, "--sparsity is for prune, not for --recipe=structure."),
        ("structure", {"scope": "unit"}, "--scope is for prune and 2:4, not for --recipe=structure."),
        ("2:4", {"sparsity": 0.7}, "--sparsity is for prune, not for --recipe=2:4."),
        ("int8", {"ramp": 0.0}, "--ramp is for prune, not for --recipe=int8."),
        ("prune", {"flops": 0.3}, "--flops is for structure, not for --recipe=prune."),
        ("int8", {"epochs": float("nan")}, "--epochs is nan, but it must be 0 or more"),
        ("int8", {"epochs": float("inf")}, "--epochs is inf, but it must be 0 or more"),
        ("int8", {"epochs": -1.0}, "--epochs is -1, but it must be 0 or more"),
        ("prune", {"sparsity": float("nan")}, "--sparsity is nan, but it must lie between 0 and 1"),
        ("prune", {"scope": "layer"}, "--scope=layer is none of unit, global, group."),
        ("half", {}, "--recipe=half is none of prune, 2:4, structure, int8, int4, w8a8."),
    ],
)
def test_what_a_recipe_does_not_take_and_what_is_no_number_is_refused(name, given, words):
    with pytest.raises(UserError) as refused:
        make_recipe(name, **given)
    assert str(refused.value).startswith(words)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(UserError) as refused:
        make_recipe("int8", sparsity=0.5, scope="unit", epochs=1)
    assert str(refused.value).splitlines() == [
        "--sparsity is for prune, not for --recipe=int8.",
        "--scope is for prune and 2:4, not for --recipe=int8.",
    ]


def test_takers_are_named_in_words():
    assert takers("flops") == "structure"
    assert takers("epochs") == "prune, 2:4, structure, int8, int4 and w8a8"
