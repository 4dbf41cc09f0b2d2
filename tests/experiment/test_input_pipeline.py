import itertools
from functools import partial

import jax
import numpy as np
import pytest

from jaxtl.data.rows import train_rows
from jaxtl.errors import UserError
from jaxtl.experiment.build import build
from jaxtl.experiment.input_pipeline import load_into_memory, make_inputs


def inputs_of(config, workdir, **options):
    experiment = build(config)
    return experiment, make_inputs(experiment, workdir, stages=experiment.plan.stages, epochs=5.0, **options)


def plain(config):
    config.augment.crop, config.augment.flip, config.finetune.unfreeze = "none", 0.0, "head"


def test_images_are_read_in_every_epoch_where_they_change(config, tmp_path, capsys):
    config.finetune.unfreeze = "head"
    _, inputs = inputs_of(config, tmp_path)
    assert not inputs.cached
    batch = next(inputs.batches(0))
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 16, 16, 3), np.uint8)
    assert capsys.readouterr().out.startswith("the groups embed to block1 are frozen, but computed in every step:")


def test_what_is_frozen_is_computed_once_where_nothing_changes(config, tmp_path, capsys):
    plain(config)
    experiment, inputs = inputs_of(config, tmp_path)
    assert inputs.cached
    assert "are frozen and computed once for each image: " in capsys.readouterr().out
    features = list(itertools.islice(inputs.batches(0), 3))
    assert (features[0]["image"].shape, inputs.dummy["image"].shape) == ((8, 16), (8, 16))
    config.finetune.cache_features = "off"
    _, images = inputs_of(config, tmp_path)
    apply = jax.jit(partial(experiment.model.module.apply, train=False, stop="block1"))
    for computed, batch in zip(features, images.batches(0), strict=False):
        np.testing.assert_array_equal(computed["label"], batch["label"])
        whole = apply(experiment.variables, batch["image"] / 127.5 - 1.0)
        np.testing.assert_allclose(computed["image"], whole, atol=1e-5)


def test_both_evaluators_measure_the_same(config, tmp_path):
    plain(config)
    found = []
    for mode in ("on", "off"):
        config.finetune.cache_features = mode
        experiment, inputs = inputs_of(config, tmp_path)
        variables = experiment.partitioner.shard_state(experiment.variables)
        evaluator = inputs.compile_evaluator(variables)
        found.append([evaluator(variables, split) for split in (experiment.splits.val, experiment.splits.test)])
    for cached, read in zip(*found, strict=True):
        assert cached["count"] == read["count"] == 6
        assert float(cached["loss"]) == pytest.approx(float(read["loss"]), rel=1e-5)
        np.testing.assert_array_equal(cached["confusion"], read["confusion"])


def test_a_cache_that_was_asked_for_but_cannot_be_is_an_error(config, tmp_path):
    config.finetune.cache_features = "on"
    with pytest.raises(UserError, match=r'finetune.cache_features is "on", but the first group trains'):
        inputs_of(config, tmp_path)
    with pytest.raises(UserError, match=r"the run began with cached features, but the first group trains"):
        inputs_of(config, tmp_path, began=True)


def test_images_go_into_memory_and_broken_ones_are_named(config, tmp_path):
    experiment = build(config)
    loaded = load_into_memory(experiment)
    assert isinstance(loaded.splits.train.read(0), np.ndarray)
    assert loaded.splits.train.names == experiment.splits.train.names
    (tmp_path / "pictures" / "val" / "red" / "val0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"val0.png is no image that Pillow reads"):
        load_into_memory(build(config))


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
@pytest.mark.parametrize("step", [0, 5])
def test_a_sampling_gives_features_and_images_in_one_order(config, tmp_path, sampling, step):
    plain(config)
    config.train.sampling = sampling
    experiment, cached = inputs_of(config, tmp_path)
    assert cached.cached
    config.finetune.cache_features = "off"
    images = inputs_of(config, tmp_path)[1].batches(step)
    rows = train_rows(
        experiment.splits.train.labels, batch_size=8, seed=config.train.seed, start_step=step, sampling=sampling
    )
    for one, other, expected in zip(itertools.islice(cached.batches(step), 6), images, rows, strict=False):
        np.testing.assert_array_equal(one["label"], other["label"])
        np.testing.assert_array_equal(one["label"], experiment.splits.train.labels[expected.index])
    images.close()
