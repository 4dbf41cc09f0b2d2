import json

import numpy as np
import pytest
from tiny import config

from jaxtl.data.folds import Fold
from jaxtl.evaluate.cross_validation import TestFold
from jaxtl.experiment.cross_validation import Cut, _out_of_fold, cross_validate, fold_config, fold_name


def test_each_fold_has_a_folder_splits_and_each_repeat_a_seed():
    folds = Cut(2, repeats=2).all
    assert list(map(fold_name, folds)) == ["fold1of2", "fold2of2", "repeat2_fold1of2", "repeat2_fold2of2"]
    given = config(train__seed=7)
    of_fold = fold_config(given, "all", folds[3])
    assert (of_fold.data.train, of_fold.data.test) == (
        "all[not fold 2/2 of repeat 2]",
        "all[fold 2/2 of repeat 2]",
    )
    assert (of_fold.train.seed, given.train.seed, given.data.test) == (8, 7, "")
    assert fold_config(given, "train", Fold(1, 2)).train.seed == 7


def test_what_is_kept_of_each_repeat():
    def tested(number, repeat, names, label):
        labels = np.full(len(names), label)
        return TestFold(number, repeat, names, labels, np.float32(np.eye(2)[labels]), 4)

    kept = _out_of_fold([tested(1, 1, "ab", 0), tested(2, 1, "c", 1), tested(1, 2, "bc", 1), tested(2, 2, "a", 0)])
    assert kept["repeat1_names"].tolist() == ["a", "b", "c"]
    assert kept["repeat1_folds"].tolist() == [1, 1, 2]
    assert kept["repeat2_names"].tolist() == ["b", "c", "a"]
    assert kept["repeat2_labels"].tolist() == [1, 1, 0]
    assert kept["repeat2_logits"].dtype == np.float16


def test_the_folder_of_something_else_is_left_alone(tmp_path):
    from jaxtl.errors import UserError

    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(UserError, match="holds the results of another command"):
        cross_validate(config(model__name="vit_ti16", data__source="folder:x"), tmp_path, Cut(3))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is that of a run"):
        cross_validate(config(model__name="vit_ti16", data__source="folder:x"), tmp_path / "run", Cut(3))
    (tmp_path / "cv" / "repeat2_fold1of12").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds a cross-validation of 12 folds \(repeat2_fold1of12\)"):
        cross_validate(config(model__name="vit_ti16", data__source="folder:x"), tmp_path / "cv", Cut(2))


@pytest.mark.parametrize(
    ("there", "probe", "said"),
    [
        ('{"trained": "runs"}', True, "of runs, which would be overwritten: leave out --probe"),
        ('{"trained": "linear probes of frozen features"}', False, "of linear probes .* overwritten: give --probe"),
        ("", True, "of runs, which would be overwritten: leave out --probe"),
    ],
)
def test_runs_and_probes_do_not_overwrite_each_other(tmp_path, there, probe, said):
    from jaxtl.errors import UserError

    if there:
        (tmp_path / "crossval.json").write_text(there)
    else:
        (tmp_path / "fold1of3").mkdir()  # It is not finished.
    with pytest.raises(UserError, match=said):
        cross_validate(config(model__name="vit_ti16", data__source="folder:x"), tmp_path, Cut(3), probe=probe)


@pytest.mark.parametrize("name", ["crossval.json", "fold1of2"])
def test_the_page_of_a_cross_validation_is_not_that_of_a_run(tmp_path, name):
    from jaxtl.errors import UserError
    from jaxtl.experiment.reporting import write_report

    (tmp_path / "config.json").write_text(json.dumps({"data": {"source": "folder:x"}}))
    if name == "crossval.json":
        (tmp_path / name).write_text("{}")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"holds a cross-validation, whose page .*crossval\.html") as told:
        write_report(tmp_path)
    assert ("report takes one, such as" in str(told.value)) == (name == "fold1of2")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_holds_nothing_measured_has_no_page(tmp_path):
    from jaxtl.errors import UserError
    from jaxtl.experiment.reporting import write_report

    (tmp_path / "config.json").write_text(json.dumps({"data": {"source": "folder:x"}}))
    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(UserError, match="holds neither a run that has begun to train nor what eval wrote"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()
