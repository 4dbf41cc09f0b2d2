import numpy as np
import pytest

from jaxtl.data import Dataset
from jaxtl.evaluate.combining import Combination
from jaxtl.experiment.ensemble_table import Candidates, compare_candidates

CLASSES = ("cat", "dog", "emu")
LABELS = np.arange(30, dtype=np.int32) % 3


def dataset(split):
    names = tuple(f"{split}/{number}.png" for number in range(30))
    return Dataset(CLASSES, LABELS, names, lambda index: np.zeros((2, 2, 3), np.uint8))


def logits(strength, seed=0):
    return np.float32(strength * np.eye(3)[LABELS] + np.random.default_rng(seed).normal(size=(30, 3)))


def compare(*, by, tested=True, stacking=2.0):
    candidates = Candidates(
        {"a": logits(1.0), "b": logits(2.0, 1)},
        {},
        {"logits": logits(2.0, 2), "weighted": logits(2.5, 3), "stacking": logits(30.0)},
    )
    splits = ("val", "test") if tested else ("val",)
    fitted = {
        "logits": Combination("logits", (0.5, 0.5)),
        "weighted": Combination("weighted", (0.25, 0.75), cross_validated=0.125),
        "stacking": Combination("stacking", cross_validated=stacking),
    }
    return compare_candidates(
        dict.fromkeys(splits, candidates), {split: dataset(split) for split in splits}, by, fitted
    )


def test_what_was_fitted_to_val_has_its_cross_validated_loss_beside_the_others():
    lines, table = compare(by="logits")
    on_val = table["val"]
    assert list(on_val["b"]) == list(on_val["ensemble by logits"]) == ["log_loss"]
    assert on_val["ensemble by stacking"] == {
        "log_loss": pytest.approx(0, abs=1e-6), "in_sample": True, "cross_validated_log_loss": 2.0
    }  # fmt: skip
    (told,) = (part for line in lines for part in line.splitlines() if ", in-sample" in part and "stacking" in part)
    assert [cell.strip() for cell in told.split("|")] == ["", "ensemble by stacking", "0.0000, in-sample", "2.0000", ""]
    assert not any("this ensemble was fitted to val" in line for line in lines)


def test_a_way_that_is_worse_than_the_best_member_on_images_that_it_did_not_see_is_told():
    lines, table = compare(by="stacking")
    (told,) = (line for line in lines if "may do harm" in line)
    least = table["val"]["b"]["log_loss"]
    assert told == (
        "note      cross-validated on val, ensemble by stacking has a log loss of 2.0000, more than the "
        f"{least:.4f} of b: it may do harm"
    )
    note = "this ensemble was fitted to val: its metrics, calibration and operating points there are in-sample"
    assert sum(note in line for line in lines) == 1
    assert not any("may do harm" in line for line in compare(by="logits", stacking=0.125)[0])


def test_without_test_images_a_note_says_which_metrics_are_in_sample():
    note = "note      fitted to these images, so that their metrics are in-sample, too good: weighted, stacking"
    assert note in compare(by="logits", tested=False)[0]
    assert note not in compare(by="logits")[0]
