import pytest

from jaxtl.config import default
from jaxtl.data import Augmentation, Reading
from jaxtl.data.augment import presets
from jaxtl.experiment import options
from jaxtl.train.optimizer import OptimizerOptions
from jaxtl.train.step import StepOptions


@pytest.fixture
def config():
    return default()


def test_the_defaults_of_a_config_are_those_of_the_options(config):
    assert options.augmentation(config) == Augmentation()
    assert options.reading(config) == Reading()
    assert options.step(config, {}) == StepOptions(ema_since={})
    assert options.optimizer(config.optimizer, 1e-3) == OptimizerOptions()


def test_each_key_arrives(config):
    config.augment.update({"crop": "pad_crop", "scale": [0.2, 0.9], "flip": 0.0, "pad": 2, "color_jitter": 0.1})
    config.augment.update({"ratio": [0.5, 2.0], "resize": 40})
    assert options.augmentation(config) == Augmentation("pad_crop", (0.2, 0.9), (0.5, 2.0), 40, 2, 0.0, 0.1)
    config.augment.update({"rotate": 5.0, "fill_color": [1.0, 0.0, 0.5], "policy": "autoaugment", "preset": "medium"})
    augmentation = options.augmentation(config)
    assert (augmentation.rotate, augmentation.fill_color) == (5.0, (1.0, 0.0, 0.5))
    assert (augmentation.policy, augmentation.erase, augmentation.crop) == ("autoaugment", 0.1, "pad_crop")
    config.data.update({"workers": 3, "reader": "threads"})
    assert options.reading(config) == Reading(3, "threads")
    config.optimizer.update({"clip_norm": 1.0, "sam_rho": 0.05})
    config.train.update({"accumulate": 2, "skip_nonfinite": True, "ema_decay": 0.9})
    assert options.step(config, {"w": 3}) == StepOptions(1.0, 2, 0.05, True, 0.9, {"w": 3})
    rule = {**config.optimizer, "name": "sgd", "momentum": 0.8}
    assert options.optimizer(rule, 0.1) == OptimizerOptions("sgd", 0.1, momentum=0.8)


def test_a_preset_in_words(config):
    assert options.preset_in_words(config, config) == ""
    config.augment.update({"preset": "light", "color_jitter": 0.7})
    words = "light sets scale 0.25 to 1; as written stay color_jitter 0.7"
    assert options.preset_in_words(config, config) == words
    assert options.preset_in_words(config, options.write_out_preset(config)) == words
    assert options.augmentation(config) == Augmentation(scale=(0.25, 1.0), color_jitter=0.7)


def test_a_preset_written_out_is_the_same_and_no_longer_follows_its_name(config, monkeypatch):
    assert options.write_out_preset(config) is config
    config.augment.update({"preset": "medium except erase", "rotate": 25.0})
    written_out, found = options.write_out_preset(config), options.augmentation(config)
    assert (config.augment.preset, written_out.augment.preset) == ("medium except erase", "")
    assert options.augmentation(written_out) == found
    monkeypatch.setitem(presets.PRESETS, "medium", {"scale": (0.5, 1.0), "shear": 3.0, "erase": 0.1})
    assert options.augmentation(config) != found
    assert options.augmentation(written_out) == found
    assert options.preset_in_words(config, written_out) == (
        "medium sets color_jitter 0.2; as written stay erase 0; this version would set others, but "
        "the run goes on as it began"
    )


def test_evaluation_batches_are_those_of_training_unless_said(config):
    assert options.eval_batch_size(config) == 32
    config.eval.batch_size = 5
    assert options.eval_batch_size(config) == 5
