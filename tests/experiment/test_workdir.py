import json

import pytest

from jaxtl import config as config_lib
from jaxtl.config import to_dict
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files


def begun(workdir):
    """Makes the workdir one of a run that has saved a step."""
    (workdir / "checkpoints" / "3").mkdir(parents=True)


def test_a_new_workdir_is_made_and_taken_away_if_nothing_began(tmp_path, config):
    workdir = tmp_path / "runs" / "a"
    made = files.open_workdir(workdir)
    assert made == [workdir, tmp_path / "runs"]
    files.claim(workdir, config)
    files.discard(workdir, made)
    assert not (tmp_path / "runs").exists()


def test_a_workdir_that_holds_something_stays(tmp_path):
    workdir = tmp_path / "runs" / "a"
    made = files.open_workdir(workdir)
    (workdir / "notes.txt").write_text("mine")
    files.discard(workdir, made)
    assert (workdir / "notes.txt").exists()


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written to: .*; give another folder"):
        files.open_workdir(tmp_path / "file")


def test_before_the_first_checkpoint_a_config_may_change(tmp_path, config):
    files.claim(tmp_path, config)
    config.optimizer.learning_rate = 0.5
    files.claim(tmp_path, config)
    assert files.read_json(tmp_path / "config.json")["optimizer"]["learning_rate"] == 0.5


def test_afterwards_it_may_not_but_for_what_changes_no_result(tmp_path, config):
    files.claim(tmp_path, config)
    begun(tmp_path)
    config.data.workers, config.data.reader, config.train.keep_latest = 7, "threads", 3
    config.eval.calibration = "vector"  # It changes what is fitted at the end, but nothing that trains.
    config.log.to, config.log.name = "", "another"
    files.claim(tmp_path, config)
    config.optimizer.learning_rate, config.train.seed = 0.5, 4
    with pytest.raises(
        UserError, match=r"(?s)holds a run of another config:\n  optimizer.*\n  train.seed: 0 -> 4\nGive"
    ):
        files.claim(tmp_path, config)


def test_a_key_that_is_newer_than_the_run_had_its_default(tmp_path, config):
    values = to_dict(config)
    del values["train"]["patience"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    begun(tmp_path)
    files.claim(tmp_path, config)
    config.train.patience = 2
    with pytest.raises(UserError, match=r"train.patience: 0 -> 2"):
        files.claim(tmp_path, config)


def test_inputs_are_those_that_the_run_began_with(tmp_path):
    files.claim_inputs(tmp_path, {"data.train": "1", "weights w": "2"})
    begun(tmp_path)
    files.claim_inputs(tmp_path, {"data.train": "1", "weights w": "2"})
    for other in ({"data.train": "9", "weights w": "2"}, {"data.train": "1"}):
        with pytest.raises(UserError, match=r"on other inputs:\n  (the training images|the weight file w) changed"):
            files.claim_inputs(tmp_path, other)


def test_what_a_run_noted_is_read_back(tmp_path):
    assert files.began_cached(tmp_path) is None
    assert files.began_with_attention(tmp_path) == ("auto", "")
    assert files.began_sparing(tmp_path) is None
    assert not files.began_earlier(tmp_path)
    begun(tmp_path)
    assert files.began_earlier(tmp_path)
    files.write_json(tmp_path / "inputs.json", {"data.train": "1", files.FITTED: "{}"})
    assert not files.began_earlier(tmp_path)
    assert files.began_sparing(tmp_path) == ()
    files.write_json(tmp_path / "weight_decay.json", {"spares": ["pos_embed"]})
    assert files.began_sparing(tmp_path) == ("pos_embed",)
    files.write_json(tmp_path / "features.json", {"cached": True})
    files.write_json(tmp_path / "attention.json", {"form": "xla", "device": "H100"})
    assert files.began_cached(tmp_path) is True
    assert files.began_with_attention(tmp_path) == ("xla", "H100")


def test_a_missing_or_broken_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*model.json: give the --workdir of a run that has trained"):
        files.read_json(tmp_path / "model.json")
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model.json cannot be read"):
        files.read_json(tmp_path / "model.json")


def test_what_is_no_run_does_not_write_into_one(tmp_path):
    files.refuse_run(tmp_path, "eval", "")
    begun(tmp_path)
    with pytest.raises(UserError) as error:
        files.refuse_run(tmp_path, "eval", "hf:org/name")
    assert str(error.value).endswith(
        f"To eval that run, give: --config.model.weights=run:{tmp_path} --workdir={tmp_path}_eval"
    )
    with pytest.raises(UserError, match=f"To eval that run, give: --workdir={tmp_path}_eval"):
        files.refuse_run(tmp_path, "eval", f"run:{tmp_path}")


def test_a_run_may_not_lie_among_its_images(tmp_path):
    for workdir in (tmp_path / "photos", tmp_path / "photos" / "runs"):
        with pytest.raises(UserError, match=r"lies among the images of folder:\S+/photos: give another folder"):
            files.open_workdir(workdir, f"folder:{tmp_path / 'photos'}")
    files.open_workdir(tmp_path / "runs", f"folder:{tmp_path / 'photos'}")


def test_a_run_from_before_rules_goes_on_with_the_defaults_of_then(tmp_path):
    config = config_lib.default()
    assert files.with_former_defaults(config, tmp_path) is config
    values = config_lib.to_dict(config)
    values["optimizer"] |= {"learning_rate": 1e-3, "warmup_steps": 0}
    values["train"] |= {"epochs": 0.0, "monitor": "accuracy"}
    values["augment"]["scale"] = [0.08, 1.0]
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = files.with_former_defaults(config, tmp_path)
    assert (found.optimizer.learning_rate, found.optimizer.warmup_steps, found.train.epochs) == (1e-3, 0, 0.0)
    assert (found.augment.scale, found.train.monitor) == ((0.08, 1.0), "accuracy")
    config.optimizer.learning_rate = 0.5
    assert files.with_former_defaults(config, tmp_path).optimizer.learning_rate == 0.5
    config.optimizer.learning_rate = "auto"
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    assert files.with_former_defaults(config, tmp_path) == config
