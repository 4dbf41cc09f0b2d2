import json

import pytest
from tiny import config

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment.cross_validation import Cut, cross_validate
from jaxtl.experiment.trained_images import count_trained, first_weights, training_splits


@pytest.fixture
def photos(tmp_path):
    """Forty files of two classes in train, and ten of each in test, whose names alone count."""
    for split, count in (("train", 20), ("test", 10)):
        for name in ("ash", "oak"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "photos" / split / name / f"{i:02}.png").touch()
    return tmp_path / "photos"


def run(workdir, photos, **keys):
    """Leaves what a run says of its data."""
    workdir.mkdir()
    given = config_lib.to_dict(config(**{"data__source": f"folder:{photos}", "data__val": "train[50%:]", **keys}))
    (workdir / "config.json").write_text(json.dumps(given))
    return f"run:{workdir}"


def counts(weights, photos):
    source = data.open_source(f"folder:{photos}")
    return [count_trained(weights, source, source.split(name)) for name in ("train", "test")]


def test_images_that_trained_a_run_or_what_it_began_with_are_counted(tmp_path, photos):
    first = run(tmp_path / "first", photos, data__train="train[:50%]", model__weights="vit.safetensors")
    assert counts(first, photos) == [20, 0]
    second = run(tmp_path / "second", photos, data__train="test", data__test="train[:50%]", model__weights=first)
    assert counts(second, photos) == [20, 20]
    assert first_weights(second) == "vit.safetensors"
    elsewhere = run(tmp_path / "elsewhere", tmp_path / "other", model__weights=first)
    assert counts(elsewhere, photos) == [20, 0]
    assert counts("vit.safetensors", photos) == counts(f"run:{tmp_path / 'gone'}", photos) == [0, 0]


def test_a_source_is_the_same_however_its_path_is_written(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert counts(run(tmp_path / "run", "photos/", data__train="train[:50%]"), photos) == [20, 0]


def test_an_ensemble_knows_what_trained_its_members(tmp_path, photos):
    run(tmp_path / "a", photos, data__train="train[:50%]")
    run(tmp_path / "b", photos, data__train="test", data__test="train[:50%]")
    noted = [{"trained": training_splits(tmp_path / name)} for name in "ab"]
    for name in "ab":
        (tmp_path / name / "config.json").unlink()  # It outlives them.
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "ensemble.json").write_text(json.dumps({"members": noted}))
    assert counts(f"run:{tmp_path / 'both'}", photos) == [20, 20]
    (tmp_path / "both" / "ensemble.json").write_text(json.dumps({"members": [{"name": "of before"}]}))
    assert counts(f"run:{tmp_path / 'both'}", photos) == [0, 0]


@pytest.mark.parametrize("probe", [False, True])
def test_folds_are_not_tested_by_what_has_seen_them(tmp_path, photos, probe):
    first = run(tmp_path / "first", photos, data__train="train[:50%]", model__weights="vit.safetensors")
    given = config(data__source=f"folder:{photos}", model__name="vit_ti16", model__weights=first)
    with pytest.raises(
        UserError, match=r"was trained on 20 of the 40 images .* --config.model.weights=vit.safetensors"
    ):
        cross_validate(given, tmp_path / "cv", Cut(2), probe=probe)
    assert not list((tmp_path / "cv").iterdir())


def test_cross_validation_in_the_folder_of_a_run_is_not_told_to_begin_with_it(tmp_path, photos):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    given = config(data__source=f"folder:{photos}", model__name="vit_ti16")
    with pytest.raises(UserError, match=r"is that of a run, whose files must stay: give another folder\.$"):
        cross_validate(given, tmp_path / "run", Cut(2))
