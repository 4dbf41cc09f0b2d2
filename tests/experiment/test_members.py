import json

import pytest

from jaxtl.errors import UserError
from jaxtl.experiment import members
from jaxtl.experiment.members import Member

FACTS = {
    "model": "vit_petals:depth=2,width=16,heads=2,patch=8",
    "num_classes": 2,
    "epsilon": 1e-6,
    "classes": ["cat", "dog"],
    "pixels": {"size": 16, "resize": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
}


@pytest.fixture
def make(tmp_path):
    def member(name, inputs=None, **facts):
        folder = tmp_path / name
        (folder / "checkpoints" / "4").mkdir(parents=True)
        values = {**FACTS, **facts}
        for file, content in (("model", values), ("results", {"loss": "softmax"}), ("inputs", inputs or {})):
            (folder / f"{file}.json").write_text(json.dumps(content))
        return Member(name, folder, values, {})

    return member


def test_finished_runs_are_read(make):
    one, other = make("a"), make("b")
    found = members.read_members([one.workdir, other.workdir])
    assert [(each.name, each.classes) for each in found] == [("a", ("cat", "dog")), ("b", ("cat", "dog"))]


def test_what_is_no_finished_run_is_told(make, tmp_path):
    one = make("a")
    (tmp_path / "empty").mkdir()
    (one.workdir / "../b").mkdir()
    for given, told in (
        ([tmp_path / "none"], "there is no folder .*none: give the workdirs of runs"),
        ([tmp_path / "empty"], "empty holds no run"),
        ([one.workdir, tmp_path / "empty" / ".." / "a"], "is given twice"),
    ):
        with pytest.raises(UserError, match=told):
            members.read_members(given)
    (one.workdir / "ensemble.json").write_text("{}")
    with pytest.raises(UserError, match=r"a is an ensemble, and an ensemble has no weights of one network: give a run"):
        members.read_members([one.workdir])
    with pytest.raises(
        UserError, match=r"a is an ensemble, and an ensemble is a member of no other: give its members\."
    ):
        members.read_members([one.workdir], no_ensemble="is a member of no other: give its members")
    (one.workdir / "ensemble.json").unlink()
    (one.workdir / "results.json").unlink()
    with pytest.raises(UserError, match="a is not finished: go on with it first"):
        members.read_members([one.workdir])


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"model": "vit_petals:depth=3,width=16,heads=2,patch=8"}, "a and b are different networks"),
        ({"epsilon": 1e-5}, r"different networks \(epsilon: 1e-06 -> 1e-05\), so their weights have no mean"),
        ({"pixels": {**FACTS["pixels"], "resize": 20}}, r"prepare their pixels otherwise \(pixels.resize: 16 -> 20\)"),
    ],
)
def test_weights_of_different_networks_have_no_mean(make, facts, told):
    with pytest.raises(UserError, match=told) as caught:
        members.check_architecture([make("a"), make("b", **facts)])
    assert "\n" not in str(caught.value)
    members.check_architecture([make("c"), make("d")])


def test_classes_are_matched_by_name_and_for_weights_by_their_order_too(make):
    one, turned = make("a"), make("b", classes=["dog", "cat"])
    members.check_classes([one, turned])
    with pytest.raises(UserError, match="a and b have their classes in another order"):
        members.check_classes([one, turned], ordered=True)
    with pytest.raises(UserError, match="other classes, 2 and 3: only a has 'cat'; only c has 'cow', 'eel'"):
        members.check_classes([one, make("c", classes=["dog", "cow", "eel"])])
    with pytest.raises(UserError, match="d has several classes of one name"):
        members.check_classes([make("d", classes=["dog", "dog"])])


def test_weights_are_averaged_of_runs_that_held_out_the_same_images(make):
    one, other = make("a", {"data.val": "1", "data.test": "2"}), make("b", {"data.val": "3"})
    with pytest.raises(UserError, match="a and b validate on different images"):
        members.check_same_images([one, other])
    with pytest.raises(UserError, match="a and c test on different images"):
        members.check_same_images([one, make("c", {"data.val": "1"})])  # It may have trained on a's.
    members.check_same_images([one, make("d", {"data.val": "1", "data.test": "2"})])


def test_nothing_is_written_where_a_run_lies(make, tmp_path):
    one = make("a")
    with pytest.raises(UserError, match=r"is .*a, or lies in it: give a new folder"):
        members.check_output(one.workdir / "soup", [one])
    with pytest.raises(UserError, match=r"holds a run already \(checkpoints\)"):
        members.check_output(make("b").workdir, [one])
    members.check_output(tmp_path / "new", [one])
