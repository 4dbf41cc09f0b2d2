"""The frozen prefix of a run: what it computes, and that what it computed is found again, and by nobody else."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxtl.experiment import backbone as backbone_lib
from jaxtl.experiment.backbone import make_backbone, stored_features


def by_hand(experiment, split):
    dataset = getattr(experiment.splits, split)
    images = np.stack([dataset.read(i) for i in range(len(dataset))])
    return tiny.features(experiment.variables["params"], (images / 127.5 - 1.0).mean((1, 2)))


def rows(stored, count):
    return np.asarray(stored[np.arange(count)])


def spent(backbone):
    """The same backbone, which computes nothing any more."""

    def forward(images):
        raise AssertionError("features were computed again")

    return dataclasses.replace(backbone, forward=forward)


def store(config, workdir, *, experiment=None, computes=True):
    """Stores the features of an experiment on disk, or sees that they are there; returns all rows."""
    experiment = experiment or tiny.experiment(config)
    backbone = make_backbone(experiment, "body")
    count = config.finetune.cache_views * 24 + 6
    return rows(stored_features(experiment, workdir, backbone if computes else spent(backbone), in_memory=False), count)


def test_a_backbone_knows_its_features_before_anything_is_compiled(monkeypatch):
    def compiled(*_, **__):
        raise AssertionError("compiled")

    real = backbone_lib.options.partitioner

    def partitioner(config, name):
        assert name == "jit"  # Also where the steps are not: each host needs all rows.
        return dataclasses.replace(real(config, name), compile=compiled)

    experiment = tiny.experiment(tiny.config(eval__batch_size=6, train__parallel="pmap"))
    monkeypatch.setattr(backbone_lib.options, "partitioner", partitioner)
    stem, body = (make_backbone(experiment, stop) for stop in ("stem", "body"))
    assert (body.shape, body.dtype, body.batch_size, body.bytes_per_image) == ((4,), np.float32, 6, 16)
    assert {name: sorted(tree) for name, tree in stem.variables.items()} == {"params": ["stem"]}
    assert {name: sorted(tree) for name, tree in body.variables.items()} == {"params": ["body", "stem"]}
    assert (body.facts["stop"], body.facts["dtype"]) == ("body", "float32")
    with pytest.raises(AssertionError, match="compiled"):
        body.forward(np.zeros((6, 4, 4, 3), np.uint8))


def test_batches_hold_features_in_place_of_images():
    experiment = tiny.experiment(tiny.config(eval__batch_size=4))
    first, second = make_backbone(experiment, "body").batches(experiment.splits.val)
    expected = by_hand(experiment, "val")
    np.testing.assert_allclose(first["image"], expected[:4], atol=1e-6)
    np.testing.assert_allclose(second["image"][:2], expected[4:], atol=1e-6)
    assert [batch["label"].tolist() for batch in (first, second)] == [[0, 1, 2, 0], [1, 2, 0, 0]]
    assert [batch["mask"].tolist() for batch in (first, second)] == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_one_view_is_that_of_evaluation_whatever_is_drawn_elsewhere(tmp_path, in_memory):
    experiment = tiny.experiment(tiny.config())  # Random crops and mirrors.
    stored = stored_features(experiment, tmp_path, make_backbone(experiment, "body"), in_memory=in_memory)
    assert len(stored) == 30
    np.testing.assert_allclose(rows(stored, 24), by_hand(experiment, "train"), atol=1e-6)
    np.testing.assert_allclose(rows(stored, 30)[24:], by_hand(experiment, "val"), atol=1e-6)
    assert (tmp_path / "features").exists() == (not in_memory)


def test_views_differ_and_val_has_one(tmp_path):
    config = tiny.config(finetune__cache_views=2)
    experiment = tiny.experiment(config)
    stored = stored_features(experiment, tmp_path, make_backbone(experiment, "body"), in_memory=True)
    assert len(stored) == 54
    first, second = stored[:24], stored[24:48]
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(stored[48:], by_hand(experiment, "val"), atol=1e-6)
    np.testing.assert_array_equal(store(config, tmp_path), stored)  # On disk they are the same.


def test_what_was_computed_is_found_again_and_told(tmp_path, capsys):
    config = tiny.config(finetune__cache_dir=str(tmp_path / "cache"))
    first = store(config, tmp_path / "one")
    assert "already" not in capsys.readouterr().out
    np.testing.assert_array_equal(store(config, tmp_path / "two", computes=False), first)
    assert f"the features are in {tmp_path / 'cache'}" in capsys.readouterr().out
    # Neither the head nor the names of the classes, nor one view's seed, play a part in it.
    other = tiny.experiment(tiny.config(train__seed=5, finetune__cache_dir=str(tmp_path / "cache")))
    head = {"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3, np.float32)}
    variables = {"params": {**other.variables["params"], "head": head}}
    model = dataclasses.replace(other.model, classes=("c", "m", "y"))
    other = dataclasses.replace(other, variables=variables, model=model)
    np.testing.assert_array_equal(store(other.config, tmp_path, experiment=other, computes=False), first)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "features").exists()


def moved(experiment):
    """The experiment with one weight of the stem changed by as little as can be."""
    variables = jax.tree.map(np.copy, experiment.variables)
    kernel = variables["params"]["stem"]["kernel"]
    kernel[0, 0] = np.nextafter(kernel[0, 0], np.float32(9))
    return dataclasses.replace(experiment, variables=variables)


def repainted(experiment):
    """The experiment with one pixel of one image changed, under the same name."""
    read = experiment.splits.val.read

    def other(index):
        image = read(index).copy()
        image[0, 0, 0] += index == 3
        return image

    return tiny.with_split(experiment, "val", read=other)


@pytest.mark.parametrize("change", [moved, repainted])
def test_other_weights_and_other_pixels_are_computed_anew(tmp_path, change):
    config = tiny.config()
    store(config, tmp_path)
    with pytest.raises(AssertionError, match="computed again"):
        store(config, tmp_path, experiment=change(tiny.experiment(config)), computes=False)


@pytest.mark.parametrize(
    ("keys", "again"),
    [
        ({}, False),
        ({"optimizer__learning_rate": 5.0}, False),
        ({"train__seed": 1}, True),
        ({"augment__flip": 0.25}, True),
        ({"finetune__cache_views": 3}, True),
    ],
)
def test_several_views_are_found_by_what_they_were_drawn_with(tmp_path, keys, again):
    store(tiny.config(finetune__cache_views=2), tmp_path)
    config = tiny.config(**{"finetune__cache_views": 2, **keys})
    if again:
        with pytest.raises(AssertionError, match="computed again"):
            store(config, tmp_path, computes=False)
    else:
        store(config, tmp_path, computes=False)
