"""Operating points of a run: what is written beside plain loops, the tables, and what cannot be asked."""

import json

import numpy as np
import pytest
import tiny

from jaxtl import config as config_lib
from jaxtl.errors import UserError
from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.predictions import as_arrays
from jaxtl.evaluate.scaling import fit_temperature
from jaxtl.experiment.calibrating import Calibration
from jaxtl.experiment.judging import make_judge
from jaxtl.experiment.loading import Decisions
from jaxtl.experiment.operating import Wanted, choose_operating_points, lines_of

CLASSES = ("red", "green", "blue")
STEP = 7


def draw(count=90, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int32)
    return labels, (2 * (1.5 * np.eye(classes)[labels] + rng.normal(size=(count, classes)))).astype(np.float32)


def write(workdir, *, splits=("val", "test"), classes=CLASSES, single=False, **keys):
    """Writes what a run leaves, and returns labels and calibrated probabilities of its splits."""
    arrays, found = {}, {}
    for seed, split in enumerate(splits):
        labels, logits = draw(classes=len(classes), seed=seed)
        if single:
            logits[:, 0] = 0
        arrays |= as_arrays(split, [f"{split}{i}" for i in range(len(labels))], labels, logits)
    np.savez(workdir / "predictions.npz", classes=np.array(classes), **arrays)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(tiny.config(**keys))))
    if "val" in splits:
        sigmoid = keys.get("train__loss") == "binary"
        scaling = fit_temperature(arrays["val_labels"], arrays["val_logits"], sigmoid=sigmoid)
        (workdir / "calibration.json").write_text(json.dumps(Calibration(scaling, 90, STEP).to_json()))
        for split in splits:
            logits = scaling.apply(arrays[f"{split}_logits"])
            found[split] = arrays[f"{split}_labels"], to_probabilities(logits, sigmoid=sigmoid)
    return found


@pytest.mark.parametrize(("by", "said"), [("weighted", True), ("logits", False)])
def test_an_ensemble_that_was_fitted_to_val_says_that_its_numbers_there_are_in_sample(tmp_path, by, said):
    write(tmp_path)
    (tmp_path / "ensemble.json").write_text(json.dumps({"combination": {"by": by}}))
    found = choose(tmp_path, "accuracy", 0.9)
    assert found.get("in_sample", False) == said
    note = "note: the ensemble was fitted to val, too, so what is told of val is too good: see test"
    assert (note in lines_of(found)) == said


def choose(workdir, *wanted, **fields):
    found = choose_operating_points(workdir, Wanted(*wanted, **fields))
    if found["rule"] is not None:
        assert json.loads((workdir / "operating_points.json").read_text()) == found
    return found


@pytest.mark.parametrize("kind", ["precision", "recall"])
@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_thresholds_of_classes_beside_a_plain_loop(tmp_path, kind, loss):
    splits = write(tmp_path, train__loss=loss)
    found = choose(tmp_path, kind, 0.8)
    labels, probabilities = splits["val"]
    for c, name in enumerate(CLASSES):
        reached = {}
        for threshold in probabilities[:, c]:
            above = probabilities[:, c] >= threshold
            hits = (above & (labels == c)).sum()
            if hits / (above.sum() if kind == "precision" else 30) >= 0.8:
                reached[threshold] = above
        threshold = (min if kind == "precision" else max)(reached)
        assert found["rule"]["thresholds"][name] == threshold
        for split, (of_labels, of_images) in splits.items():
            above = of_images[:, c] >= threshold
            hits = int((above & (of_labels == c)).sum())
            expected = {"precision": hits / above.sum(), "recall": hits / 30, "above": int(above.sum()), "count": 30}
            assert found[split][name] == expected
    assert found["chosen_on"] == "val"
    assert lines_of(found)[1] == f"{kind} of at least 80 % for each class"
    # As predictions have it: the images whose lines name a class above its threshold are those that were counted.
    judge = make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    with np.load(tmp_path / "predictions.npz") as kept:
        said = [judge(row) for row in kept["test_logits"]]
    for name in CLASSES:
        assert sum(name in line["above"] for line in said) == found["test"][name]["above"]
    assert all(line["calibrated"] and line["operating_point"] == f"{kind} 0.8" for line in said)


@pytest.mark.parametrize("by", ["confidence", "energy"])
@pytest.mark.parametrize("kind", ["accuracy", "coverage"])
def test_what_is_kept(tmp_path, kind, by):
    write(tmp_path)
    found = choose(tmp_path, kind, 0.9, by=by)
    assert found["val"][kind] >= 0.9
    assert found["val"]["kept"] == round(found["val"]["coverage"] * 90)
    assert 0 < found["test"]["coverage"] < 1
    low, high = found["test"]["accuracy_interval"]
    assert low < found["test"]["accuracy"] < high
    judge = make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    with np.load(tmp_path / "predictions.npz") as kept:
        said = [judge(row)["class"] for row in kept["test_logits"]]
        right = [name == CLASSES[label] for name, label in zip(said, kept["test_labels"], strict=True)]
    assert (len(said) - said.count(None), sum(right)) == (
        found["test"]["kept"],
        round(found["test"]["accuracy"] * found["test"]["kept"]),
    )
    lines = lines_of(found)
    assert lines[1].startswith(f"{kind} of at least 90 %: none of these below {by} ")
    assert lines[-2:] == [line for line in lines if line.startswith("by energy")]


@pytest.mark.parametrize(
    "wanted", [("recall", 1.0), ("precision", 0.8), ("coverage", 0.8, "energy"), ("accuracy", 0.9)]
)
@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_what_was_counted_on_val_is_predicted_of_its_images(tmp_path, wanted, loss):
    write(tmp_path, splits=("val",), train__loss=loss)
    found = choose(tmp_path, *wanted)["val"]
    judge = make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    labels, logits = draw()  # As the model gives them, not rounded.
    said = [judge(row) for row in logits]
    if len(wanted) == 2 and wanted[0] in ("precision", "recall"):
        for c, name in enumerate(CLASSES):
            above = np.array([name in line["above"] for line in said])
            assert above.sum() == found[name]["above"]
            assert (above & (labels == c)).sum() / 30 == found[name]["recall"]
    else:
        assert sum(line["class"] is not None for line in said) == found["kept"]


def test_costs(tmp_path):
    labels, probabilities = write(tmp_path)["test"]
    (tmp_path / "costs.csv").write_text(",blue,green,red\nred,1,1,0\ngreen,1,0,1\nblue,0,20,20\n")
    found = choose(tmp_path, "costs", costs=tmp_path / "costs.csv")
    costs = np.array([[0, 1, 1], [1, 0, 1], [20, 20, 0]])
    assert found["rule"] == {"kind": "costs", "costs": costs.tolist()}
    decided = (probabilities @ costs).argmin(1)
    assert found["test"]["cost"] == costs[labels, decided].mean()
    assert found["test"]["cost_of_the_likeliest"] == costs[labels, probabilities.argmax(1)].mean()
    assert found["test"]["cost"] < found["test"]["cost_of_the_likeliest"]
    assert found["test"]["changed"] == (decided != probabilities.argmax(1)).sum() > 0
    assert lines_of(found)[1].split("  ")[0] == "cost an image"
    judge = make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    with np.load(tmp_path / "predictions.npz") as kept:
        said = [judge(row) for row in kept["test_logits"]]
    assert [line["class"] for line in said] == [CLASSES[c] for c in decided]


def test_the_curves_alone(tmp_path):
    write(tmp_path, splits=("val",))
    found = choose(tmp_path)
    assert found["rule"] is None
    assert set(found["rejection"]) == {"confidence", "energy"}
    assert set(found["rejection"]["energy"]) == {"val"}
    lines = lines_of(found)
    assert "chosen on val" in lines[0]
    assert "test" not in "".join(lines)
    assert lines[3].split()[-13:] == ["100", "%", "95", "%", "90", "%", "80", "%", "70", "%", "50", "%", "AURC"]
    assert not (tmp_path / "operating_points.json").exists()
    choose(tmp_path, "recall", 0.9)
    chosen = (tmp_path / "operating_points.json").read_text()
    choose(tmp_path)  # What was chosen stays.
    assert (tmp_path / "operating_points.json").read_text() == chosen


def test_what_is_not_reached_is_said(tmp_path):
    write(tmp_path)
    with np.load(tmp_path / "predictions.npz") as arrays:
        kept = dict(arrays)
    kept["val_labels"] = (kept["val_logits"].argmax(1) + 1).astype(np.int32) % 3  # Wrong each time.
    np.savez(tmp_path / "predictions.npz", **kept)
    found = choose(tmp_path, "accuracy", 0.5)
    assert (found["rule"]["threshold"], found["test"]["kept"], found["test"]["accuracy"]) == (None, 0, None)
    assert lines_of(found)[1] == (
        "accuracy of at least 50 % of what is kept is not reached on val, at no confidence: nothing would be kept"
    )
    with pytest.raises(UserError, match="holds no threshold"):
        make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    found = choose(tmp_path, "precision", 1.0)
    assert None in found["rule"]["thresholds"].values()
    assert any(line.split()[1:] == ["none", "not", "reached"] for line in lines_of(found))
    make_judge(tmp_path, CLASSES, STEP, operating_points=True)


def test_what_cannot_be_asked(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*predictions\.npz: a run writes it at its end"):
        choose(tmp_path)
    write(tmp_path, splits=("test",))
    with pytest.raises(UserError, match="has no images of val; it has test"):
        choose(tmp_path)
    write(tmp_path, classes=("no", "yes"), single=True)
    with pytest.raises(UserError, match="one logit for two classes has no energy: give --by=confidence"):
        choose(tmp_path, "accuracy", 0.9, by="energy")
    assert set(choose(tmp_path, "accuracy", 0.6)["rejection"]) == {"confidence"}
    for share, hint in (
        (0, "at most 1."),
        (95, "at most 1: 0.95 is 95 %."),
        (-1, "at most 1."),
        (np.nan, "at most 1."),
    ):
        with pytest.raises(UserError, match=f"--precision is .*, but it must be above 0 and {hint}"):
            choose(tmp_path, "precision", share)
    with pytest.raises(UserError, match="--by=energy says what puts images aside: give it with --accuracy"):
        choose(tmp_path, "recall", 0.5, by="energy")


def test_what_the_judge_refuses(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*config\.json: give the --workdir of a run"):
        make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    write(tmp_path)
    with pytest.raises(UserError, match=r"there is no .*operating_points\.json: choose them with the operating_points"):
        make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    choose(tmp_path, "recall", 0.9)
    with pytest.raises(UserError, match="is for other classes than the model of the run"):
        make_judge(tmp_path, (*CLASSES[:2], "violet"), STEP, operating_points=True)
    with pytest.raises(UserError, match="was fitted at step 7, but the best checkpoint there is of step 9"):
        make_judge(tmp_path, CLASSES, 9, operating_points=True)
    with pytest.raises(UserError, match="was fitted at step 7, but the best checkpoint there is of step 9"):
        make_judge(tmp_path, CLASSES, 9, calibrated=True)
    with pytest.raises(UserError, match="both say which images are of no class: give one"):
        make_judge(tmp_path, CLASSES, STEP, operating_points=True, reject_below=0.5)
    with pytest.raises(UserError, match="reject_below is 90, but it must be a probability"):
        Decisions(reject_below=90)
    good = json.loads((tmp_path / "operating_points.json").read_text())
    for rule in ({}, {"kind": "recall", "wanted": 0.9, "thresholds": {"red": 0.5}}, {"kind": "costs", "costs": [[1]]}):
        (tmp_path / "operating_points.json").write_text(json.dumps({**good, "rule": rule}))
        with pytest.raises(UserError, match="is not as that command writes it"):
            make_judge(tmp_path, CLASSES, STEP, operating_points=True)
    # By default none of this is looked at.
    assert make_judge(tmp_path, CLASSES, STEP).scaling is None
