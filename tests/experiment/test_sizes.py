import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtl import config as config_lib
from jaxtl import recipes
from jaxtl.data.augment import presets
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build
from jaxtl.experiment.options import augmentation
from jaxtl.experiment.sizes import fit_to_size, note_few, replaced, stage_lengths, with_fitted
from jaxtl.experiment.start import start_run
from jaxtl.experiment.training import train_to_end

QUICK = ("vit_flowers.py", "pets.py", "lp_ft.py", "vgg_cats_dogs.py")
CASES = [
    # The others draw the first weights of convolutional networks, which takes a second or two to compile.
    pytest.param(path.name, variant, marks=[pytest.mark.slow] * (path.name not in QUICK))
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
    for variant in recipes.read(path).variants
    if path.name != "resnet_cifar.py" or not variant  # Its variants differ by the depth of the network alone.
]
# Small models in place of a recipe's own, by a word in its name, and the side of their images.
SMALL = {
    "resnet": ("resnet20_cifar:blocks=1", 16),
    "vgg": ("vgg11:width=8,hidden=16", 32),
    "mobilenet": ("mobilenet_v2:depths=1-1-1-1-1-1-1", 32),
    "": ("vit_petals:depth=2,width=16,heads=2,patch=8", 16),
}


def settings(config, *keys):
    return [config[section][name] for section, name in (key.split(".") for key in keys)]


def sized(images, devices=1, **keys):
    config = config_lib.default()
    config.train.epochs, config.optimizer.warmup_steps = 5.0, 0
    for key, value in keys.items():
        section, name = key.split("__")
        config[section][name] = value
    before = config_lib.to_dict(config)
    fitted, notes = fit_to_size(config, images, devices)
    assert config_lib.to_dict(config) == before
    return fitted, notes


def test_a_set_that_is_large_enough_changes_nothing():
    fitted, notes = sized(647, 2, optimizer__warmup_steps=10, model__drop_path=0.1)
    assert notes == ()
    assert config_lib.to_dict(fitted)["optimizer"]["warmup_steps"] == 10


def test_the_sizes_of_a_small_set():
    fitted, notes = sized(79, optimizer__warmup_steps=10, model__drop_path=0.1)
    keys = ("train.batch_size", "optimizer.warmup_steps", "model.drop_path", "train.eval_every")
    assert settings(fitted, *keys) == [32, 4, 0.0, 0]
    assert notes == (
        "optimizer.warmup_steps is 4 instead of 10: it is a third of 13 steps at most",
        "model.drop_path is 0.0 instead of 0.1: 13 steps are too few for it to help",
    )


@pytest.mark.parametrize(
    ("images", "devices", "accumulate", "batch_size"),
    [(31, 1, 1, 31), (31, 2, 1, 30), (31, 4, 1, 28), (31, 2, 4, 24), (3, 8, 1, 8), (32, 8, 1, 32), (40, 1, 1, 32)],
)
def test_a_batch_holds_no_more_images_than_there_are(images, devices, accumulate, batch_size):
    fitted, notes = sized(images, devices, train__accumulate=accumulate)
    assert fitted.train.batch_size == batch_size
    assert (f"train.batch_size is {batch_size} instead of 32" in "\n".join(notes)) == (batch_size < 32)


def test_what_is_given_in_steps_stays_as_it_is():
    fitted, notes = sized(
        64, train__epochs=0.0, train__steps=12, optimizer__warmup_steps=8, model__drop_path=0.1, train__eval_every=4
    )
    assert settings(fitted, "optimizer.warmup_steps", "model.drop_path", "train.eval_every") == [8, 0.1, 4]
    assert notes == ()


def test_warm_up_is_a_third_of_the_shortest_stage_and_of_the_whole_run_where_it_is_not_taken_anew():
    stages = ({"epochs": 2, "unfreeze": "head"}, {"epochs": 7, "unfreeze": "all"})
    keys = {"finetune__stages": stages, "train__epochs": 0.0, "optimizer__warmup_steps": 10}
    assert sized(96, **keys)[0].optimizer.warmup_steps == 2
    assert sized(96, **keys, finetune__restart_schedule=False)[0].optimizer.warmup_steps == 9
    rules = {"block.*": {"warmup_steps": 9, "learning_rate": 0.1}, "head": {"learning_rate": 1.0}}
    fitted, notes = sized(96, **keys, finetune__groups=rules)
    assert fitted.finetune.groups == {**rules, "block.*": {"warmup_steps": 2, "learning_rate": 0.1}}
    assert "warmup_steps of finetune.groups['block.*'] is 2 instead of 9: it is a third of 6 steps at most" in notes


def test_a_long_run_on_a_few_images_is_evaluated_every_ten_steps():
    assert sized(6, train__epochs=500.0)[0].train.eval_every == 10
    assert sized(6, train__epochs=0.0, train__steps=500)[0].train.eval_every == 10
    assert sized(6, train__epochs=10.0)[0].train.eval_every == 2
    assert sized(160, train__epochs=500.0)[0].train.eval_every == 0


def test_stage_lengths_are_whole_steps():
    config = config_lib.default()
    config.train.epochs = 2.0
    assert stage_lengths(config, 1.3) == [3]
    config.finetune.stages = ({"steps": 4, "unfreeze": 1}, {"epochs": 3, "unfreeze": 2})
    assert stage_lengths(config, 1.3) == [4, 4]


def test_few_images_choose_by_chance():
    assert note_few(10, "accuracy") == ()
    (note,) = note_few(3, "accuracy")
    assert note.startswith(
        "3 images choose the best checkpoint: each is 33.3 points of accuracy, so chance has a large"
    )
    assert note.endswith("; the loss, as train.monitor, is finer")
    (note,) = note_few(1, "loss")
    assert note.startswith("one image chooses the best checkpoint: each is 100 points")


@pytest.fixture
def four(tmp_path):
    """Two classes of two photographs."""
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        for i in range(2):
            noise = np.random.default_rng([len(name), i]).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"IMG_{i}.jpg")
    return tmp_path


VGG = (("vgg_cats_dogs.py", "last_block"), ("vgg_cats_dogs.py", "fixed"))


def recipe(request, name, variant, folder):
    """Returns a recipe of configs/ for the folder, with a small model in place of its own."""
    file = request.config.rootpath / "configs" / name
    model, size = next(small for word, small in SMALL.items() if word in name)
    config = config_lib.load(f"{file}:{variant}", {"model.weights": "", "data.source": f"folder:{folder}"})
    config.model.name, config.model.image_size, config.model.resize = model, size, 0
    config.augment.resize = min(config.augment.resize, 20)
    config.augment.pad = min(config.augment.pad, 4)
    config.train.check_learning_rate = False
    return config


def test_a_short_run_does_not_take_its_last_checkpoint_unseen():
    fitted, notes = sized(92, train__monitor="last")
    assert fitted.train.monitor == "loss"
    assert any(note.startswith("train.monitor is loss instead of last: ") for note in notes)
    for longer in ({"images": 647, "train__epochs": 4.0}, {"images": 92, "train__epochs": 0.0, "train__steps": 12}):
        assert sized(longer.pop("images"), train__monitor="last", **longer)[0].train.monitor == "last"


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_recipe_takes_two_images_of_two_classes(request, four, name, variant):
    config = recipe(request, name, variant, four)
    config.data.train, config.data.val, config.data.test = "", "", ""  # That of ImageNet has splits of its own.
    experiment = build(config)
    assert [len(experiment.splits.train), len(experiment.splits.val), experiment.splits.test] == [2, 2, None]
    assert experiment.given is config
    assert experiment.config.train.batch_size == 2
    assert experiment.config.optimizer.warmup_steps < min(s.stop - s.start for s in experiment.plan.stages)
    said = "\n".join((*experiment.splits.notes, *experiment.plan.notes))
    assert "no test split: too few images (2 ants, 2 bees)" in said
    few = "2 images choose the best checkpoint"  # Of runs so short but two, which fix the number of their steps.
    assert few in said or "train.monitor is 'last': 2 images tell by chance" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"), [("lp_ft.py", ""), ("resnet_cifar.py", ""), ("vit_flowers.py", "ti16"), *VGG]
)
def test_recipes_train_on_two_images_of_two_classes(request, four, tmp_path, name, variant):
    config = recipe(request, name, variant, four)
    config.train.steps = min(config.train.steps, 4)
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, config.train.steps // 2 or 100)
    results = train_to_end(start_run(build(config), tmp_path), tmp_path, started=0.0, stop=lambda: False)
    assert results["val"]["count"] == 2
    assert "test" not in results
    assert results["val"]["accuracy_interval"][1] - results["val"]["accuracy_interval"][0] > 0.6


def test_a_run_of_before_keeps_its_splits_and_steps(request, config):
    config.train.steps, config.train.epochs, config.optimizer.warmup_steps = 0, 1.0, 2
    assert build(config).config.optimizer.warmup_steps == 1
    earlier = build(config, earlier=True)
    assert (earlier.config.optimizer.warmup_steps, earlier.earlier) == (2, True)


def test_top5_of_few_classes_chooses_nothing(config):
    config.train.monitor = "top5"
    with pytest.raises(UserError, match=r'train.monitor is "top5", but of 3 classes all are among the first five'):
        build(config)
    assert build(config, earlier=True).config.train.monitor == "top5"


def test_a_run_goes_on_with_what_it_was_cut_to_whatever_devices_it_has():
    config = config_lib.default()
    config.train.epochs, config.train.batch_size, config.optimizer.warmup_steps = 20.0, 64, 10
    fitted, _ = fit_to_size(config, 27, 1)
    values = json.loads(json.dumps(replaced(config, fitted)))
    assert values == {"optimizer.warmup_steps": 6, "train.batch_size": 27, "train.eval_every": 4}
    assert config_lib.to_dict(with_fitted(config, values, 3)) == config_lib.to_dict(fitted)
    with pytest.raises(UserError, match=r"began with batches of 27 images, .* which 8 devices cannot share"):
        with_fitted(config, values, 8)
    assert replaced(config, config) == {}


def test_a_run_goes_on_with_the_values_that_its_preset_had(config, tmp_path, monkeypatch, capsys):
    config.augment.preset = "strong"
    began = start_run(build(config), tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    capsys.readouterr()
    monkeypatch.setitem(presets.PRESETS, "strong", {"scale": (0.9, 1.0), "rotate": 5.0})
    fitted = json.loads(json.loads((tmp_path / "inputs.json").read_text())["fitted"])
    assert fitted == files.began_fitted(tmp_path)
    assert {key: value for key, value in fitted.items() if key.startswith("augment.")} == {
        "augment.preset": "",
        "augment.scale": [0.2, 1.0],
        "augment.policy": "trivialaugment",
        "augment.erase": 0.25,
    }
    goes_on = start_run(build(config, fitted=fitted), tmp_path)
    assert augmentation(goes_on.config) == augmentation(began.config) != augmentation(config)
    assert (
        "strong sets scale 0.2 to 1, erase 0.25, policy trivialaugment; this version would set others"
        in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "config.json").read_text())["augment"]["preset"] == "strong"
