import copy
import shutil

import jax
import numpy as np
import pytest

from jaxtl.config import to_dict
from jaxtl.errors import UserError
from jaxtl.experiment.build import build, build_run
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end
from jaxtl.trees import flatten


def test_a_config_builds_what_it_describes_and_stays_as_it_is(config):
    before = copy.deepcopy(to_dict(config))
    experiment = build(config)
    assert to_dict(config) == before
    assert experiment.model.classes == ("blue", "green", "red")
    assert [len(split) for split in (experiment.splits.train, experiment.splits.val, experiment.splits.test)] == [
        24,
        6,
        6,
    ]
    assert experiment.steps_per_epoch == 3.0
    assert experiment.plan.total_steps == 3
    assert experiment.load_report is None
    assert experiment.variables["params"]["head"]["kernel"].shape == (16, 3)
    assert experiment.origin == config.data.source


def test_an_abstract_experiment_has_the_same_shapes_and_touches_no_device(config, monkeypatch):
    real = build(config)
    monkeypatch.setattr(jax, "devices", None)
    abstract = build(config, abstract=True)
    assert abstract.model == real.model
    assert abstract.plan.assignment == real.plan.assignment
    shapes = {path: leaf.shape for path, leaf in flatten(real.variables).items()}
    assert {path: leaf.shape for path, leaf in flatten(abstract.variables).items()} == shapes
    with pytest.raises(RuntimeError, match="lies on no device"):
        abstract.partitioner.shard_batch({})
    with pytest.raises(IndexError, match="no data were opened"):
        abstract.splits.train.read(0)


def test_without_data_an_outline_has_a_thousand_classes(config):
    config.data.source = "folder:nowhere"
    abstract = build(config, abstract=True)
    assert len(abstract.model.classes) == 1000
    assert abstract.origin == "nothing: neither data nor weights are here"


def test_weights_that_are_missing_are_an_error_unless_they_are_optional(config):
    config.model.weights = "nowhere.safetensors"
    with pytest.raises(UserError, match=r'To see the model without them: --config.model.weights=""'):
        build(config, abstract=True)
    assert build(config, abstract=True, weights_optional=True).load_report is None


def test_all_that_is_missing_is_told_at_once(config):
    config.model.weights, config.data.source = "nowhere.safetensors", "folder:nowhere"
    with pytest.raises(UserError, match=r"(?s)nowhere.safetensors.*nowhere"):
        build(config)


def test_a_batch_that_the_devices_cannot_share_is_an_error(config):
    config.train.batch_size = 7
    with pytest.raises(UserError, match=r"train.batch_size is 7, .*2 devices: give a multiple of 2, such as 8"):
        build(config)


def test_features_need_no_head_and_evaluation_needs_weights(config):
    experiment = build(config, purpose="features")
    assert "head" not in experiment.variables["params"]
    assert experiment.plan.stages == ()
    with pytest.raises(UserError, match="eval needs weights"):
        build(config, purpose="evaluate")


@pytest.mark.slow
def test_one_process_builds_and_trains_again_and_again(config, tmp_path):
    """As sweeps and cross-validation do: each run is as if it were the only one."""
    results = []
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        config.train.seed = seed
        (tmp_path / name).mkdir()
        experiment = start_run(build(config), tmp_path / name)
        results.append(train_to_end(experiment, tmp_path / name, started=0.0, stop=lambda: False))
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc"]
    assert lines[0] == lines[2]
    assert lines[0] != lines[1]
    assert results[0]["test"] == results[2]["test"]
    (model, variables, step), (_, again, _) = build_run(tmp_path / "a"), build_run(tmp_path / "c")
    assert (model.classes, step) == (("blue", "green", "red"), results[0]["best_step"])
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    evaluated = build_weights(config, f"run:{tmp_path / 'a'}")
    np.testing.assert_array_equal(
        evaluated.variables["params"]["head"]["kernel"], variables["params"]["head"]["kernel"]
    )
    assert (evaluated.origin, evaluated.loss_name) == ("test", "softmax")


def build_weights(config, weights):
    config.model.weights = weights
    return build(config, purpose="evaluate")


@pytest.mark.slow
def test_of_its_own_data_a_run_is_measured_on_what_it_held_out(config, tmp_path):
    pictures = tmp_path / "all"
    for number, path in enumerate(sorted((tmp_path / "pictures").rglob("*.png"))):
        folder = pictures / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number}.png")
    config.data.source = f"folder:{pictures}"
    (tmp_path / "run").mkdir()
    trained = start_run(build(config), tmp_path / "run")
    train_to_end(trained, tmp_path / "run", started=0.0, stop=lambda: False)
    config.model.weights = f"run:{tmp_path / 'run'}"
    measured = build(config, purpose="evaluate")
    assert measured.origin == "the test split of the run"
    assert set(measured.splits.test.names) == set(trained.splits.test.names)
    assert 0 < len(measured.splits.test) < len(trained.splits.train)
